"""The archive tells what the log tells, and whatever else it comes to hold is noticed."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID, uuid5

import fsspec
import msgpack
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from tests.programme_life import Life, Step, steps

import tallybook
from tallybook import ArchiveError, BookError, Refused
from tallybook.adapters.archive import archive as module
from tallybook.adapters.archive import building, columns, decoding
from tallybook.adapters.archive.archive import Archive
from tallybook.adapters.archive.files import fitted, write_parquet
from tallybook.adapters.archive.manifest import Manifest
from tallybook.adapters.archive.places import MANIFEST, LocalFolder, place_of
from tallybook.adapters.codec import EventMapper
from tallybook.domain.errors import NewerSchema, StoredFormError, UnknownStoredName
from tallybook.domain.events import REGISTRY, Event, Value
from tallybook.domain.loyalty import account_id
from tallybook.domain.points import lot_of

GOLDEN = Path(__file__).parent.parent / "golden"
FULL: list[Step] = [
    (kind, number % 3, 3, 40 + 7 * number)
    for number, kind in enumerate(
        ["enrol", "buy", "buy", "visit", "redeem", "tea", "buy", "return", "hold", "release", "transfer", "give"] * 4
    )
]


def recovered(row: dict[str, Any], ids: dict[int, UUID]) -> dict[str, Any]:
    """The clear fields of a row's event: from the archive, and which id the event of each position has."""

    def id_of(held: dict[str, Any] | None) -> UUID | None:
        if held is None:
            return None
        if held["id"] is not None:
            assert held["position"] is held["number"] is None
            return UUID(bytes=held["id"])
        return lot_of(ids[held["position"]], held["number"] or 0)

    def value(held: Any, leaf: columns.Leaf) -> Any:
        return id_of(held) if leaf.holds == columns.ID else held

    def part(held: dict[str, Any], field: columns.Field) -> dict[str, Any]:
        assert field.column is not None
        mine = [field.column.leaves[index] for index in field.fills]
        rest = {leaf.name for leaf in field.column.leaves} - {leaf.name for leaf in mine}
        assert all(held[name] is None for name in rest)
        return {leaf.name: value(held[leaf.name], leaf) for leaf in mine}

    found: dict[str, Any] = {}
    fields = columns.columns().fields[row["stored_name"]]
    for field in fields:
        if field.column is None:
            continue
        held, column = row[field.column.name], field.column
        if held is None:
            found[field.name] = None
        elif column.shape == columns.LIST:
            found[field.name] = [value(one, column.leaves[0]) for one in held]
        elif column.shape == columns.PARTS:
            found[field.name] = [part(one, field) for one in held]
        elif column.shape == columns.PART:
            found[field.name] = part(held, field)
        else:
            found[field.name] = value(held, column.leaves[0])
    mine = {field.column.name for field in fields if field.column is not None}
    assert all(row[one.name] is None for one in columns.columns().columns if one.name not in mine)
    return found


def told(event: Event) -> dict[str, Any]:
    """The clear fields of an event, but for bytes."""

    def plain(value: Any) -> Any:
        if isinstance(value, tuple):
            return [plain(one) for one in value]
        if isinstance(value, Value):
            return {name: plain(getattr(value, name)) for name in type(value).model_fields}
        return value

    return {
        name: plain(getattr(event, name)) for name in event.clear_fields if not isinstance(getattr(event, name), bytes)
    }


def assert_same(rows: list[dict[str, Any]], events: dict[int, Event]) -> None:
    """Rows are the events, in order of subject and position."""
    ids = {position: event.event_id for position, event in events.items()}
    streams: dict[tuple[bytes | None, int], UUID] = {}
    assert sorted(row["position"] for row in rows) == sorted(events)
    for row in rows:
        event = events[row["position"]]
        assert recovered(row, ids) == told(event), row["position"]
        subject = None if row["subject_id"] is None else UUID(bytes=row["subject_id"])
        stream = (row["subject_id"], row["stream"])
        if row["stream_id"] is not None:
            streams[stream] = UUID(bytes=row["stream_id"])
        elif stream not in streams:
            assert subject is not None
            enrolled = event.stored_name == "loyalty.enrolled"
            streams[stream] = account_id(subject, row["programme"]) if enrolled else subject
        metadata = event.metadata
        assert {
            "stored_name": event.stored_name,
            "subject_id": event.subject_id,
            "stream": event.originator_id,
            "version": event.originator_version,
            "effective_us": event.effective_us,
            "recorded_us": metadata.recorded_us,
            **{name: getattr(metadata, name) for name in columns.METADATA_TEXTS},
        } == {
            "subject_id": subject,
            "stream": streams[stream],
            **{name: row[name] for name in ("stored_name", "version", "effective_us", "recorded_us")},
            **{name: row[name] for name in columns.METADATA_TEXTS},
        }


def archive_of(book: tallybook.Book, place: str | Path) -> Archive:
    core = book._core
    return Archive(core.app.log, place_of(place), core.storage.models.hold, opened=core.checkpoints["events"].opened)


def all_rows(archive: Archive) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = archive.rows(range(columns.FILES)).to_pylist()
    return rows


def events_of(book: tallybook.Book) -> dict[int, Event]:
    return {one.position: one.event for one in book.follow(timeout_s=0)}


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    """A book in which much happened, and its archive with a delta."""
    life = Life(f"sqlite:///{tmp_path_factory.mktemp('lived')}/shop.book").live(FULL[:36])
    life.book.archive.rebuild()
    life.live(FULL[36:40])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "DELTA_SHARE", 1)
        life.book.archive.catch_up()
    yield life
    life.close()


@pytest.fixture
def archive(lived: Life, tmp_path: Path) -> Archive:
    """A copy of that archive, to be damaged."""
    shutil.copytree(Path(lived.url.removeprefix("sqlite:///") + ".archive"), tmp_path / "archive")
    return archive_of(lived.book, tmp_path / "archive")


def folder_of(archive: Archive) -> Path:
    assert isinstance(archive.place, LocalFolder)
    return archive.place.path


# ── what is in it ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_clear_field_can_be_had_back(lived: Life) -> None:
    archive = archive_of(lived.book, lived.url.removeprefix("sqlite:///") + ".archive")
    assert archive.manifest().deltas
    rows = all_rows(archive)
    assert_same(rows, events_of(lived.book))
    assert {row["stored_name"] for row in rows} >= {
        "loyalty.points_transferred", "loyalty.hold_released", "loyalty.coupon_issued", "book.rule_set_adopted",
    }  # fmt: skip


@settings(max_examples=5, deadline=None)
@given(what=steps, after=steps)
def test_catching_up_gives_what_a_rebuild_gives(what: list[Step], after: list[Step]) -> None:
    life = Life().live(what)
    try:
        fsspec.filesystem("memory").store.clear()
        followed = archive_of(life.book, "memory://followed")
        followed.catch_up()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "DELTA_SHARE", 1)
            patch.setattr(module, "REBUILD_SHARE", 1)
            for start in range(0, len(after), 12):
                life.live(after[start : start + 12])
                followed.catch_up()
        rebuilt = archive_of(life.book, "memory://rebuilt")
        rebuilt.rebuild()
        expected = rebuilt.rows(range(columns.FILES))
        assert followed.rows(range(columns.FILES)) == expected
        assert followed.verify().holds
        followed.compact()
        assert not followed.manifest().deltas
        assert followed.rows(range(columns.FILES)) == expected
        assert_same(all_rows(followed), events_of(life.book))
    finally:
        life.close()


def golden() -> list[tuple[Event, bytes]]:
    from tests.golden import make

    ring = make.keyring()
    found = []
    with make.fixed_nonce():
        for name, kind in columns.kinds().items():
            file = json.loads(make.path_of(name, kind.schema_version).read_text())
            for one in file["examples"].values():
                state = bytes.fromhex(one["state"])
                mapper = EventMapper(ring)
                found.append((mapper.read(uuid5(make.SPACE, name), 7, name, state), state))
    return found


def test_every_kind_of_event_with_every_field_set_or_left_out_can_be_had_back() -> None:
    made = building.program()
    events = golden()
    for nobody in (True, False):
        mine = [(event, state) for event, state in events if (event.subject_id is None) == nobody]
        rows = [
            (position, event.originator_id.bytes, event.originator_version, event.stored_name, state)
            for position, (event, state) in enumerate(mine, 1)
        ]
        chunk, _ = building.prepared(building.chunk_of(rows, made), made)
        table = fitted(building.table_of(chunk, made, nobody=nobody), columns.arrow_schema())
        assert_same(table.to_pylist(), dict(enumerate((event for event, _ in mine), 1)))


def test_numbers_of_every_size_and_texts_of_every_length_are_kept() -> None:
    made = building.program()
    event, state = next(one for one in golden() if one[0].stored_name == "loyalty.redemption_requested")
    values = msgpack.unpackb(state)
    numbers = [sign * (1 << bits) + more for bits in range(63) for sign in (1, -1) for more in (-1, 0, 1)]
    numbers = [one for one in numbers if -(2**63) < one < 2**63] + [2**63 - 1, 1 - 2**63]
    texts = ["é" * length for length in (0, 1, 15, 16, 120, 128, 40_000)]
    rows, wanted = [], []
    for position, number in enumerate(numbers, 1):
        values[6], values[7], values[9] = number, texts[position % len(texts)], [texts[position % 3]] * (position % 20)
        rows.append((position, event.originator_id.bytes, 1, event.stored_name, msgpack.packb(values)))
        wanted.append((number, values[7], list(values[9])))
    chunk, _ = building.prepared(building.chunk_of(rows, made), made)
    found = building.table_of(chunk, made).to_pylist()
    assert [(row["points"], row["reward"], row["segments"]) for row in found] == wanted


def test_an_older_schema_version_is_brought_up(monkeypatch: pytest.MonkeyPatch) -> None:
    made = building.program()
    event, state = next(one for one in golden() if one[0].stored_name == "ticket.resolved")
    values = msgpack.unpackb(state)
    number = made.numbers["ticket.resolved"]
    form = made.forms[number]
    newer = replace(made, newest=made.newest.copy())
    newer.newest[number] = 2
    monkeypatch.setattr(form, "version", 2)
    monkeypatch.setattr(form.schema, "upcasters", {1: lambda clear: [clear[0].upper()]})
    rows = [(1, event.originator_id.bytes, 1, event.stored_name, state)]
    values[0] = 2
    rows.append((2, event.originator_id.bytes, 2, event.stored_name, msgpack.packb(values)))

    def upcast(stored: list[Any]) -> list[Any]:
        return stored if stored[0] == 2 else [2, *stored[1:6], stored[6].upper(), stored[7]]

    monkeypatch.setattr(type(form), "current", lambda _, stored: upcast(stored))
    chunk, _ = building.prepared(building.chunk_of(rows, newer), newer)
    assert building.table_of(chunk, newer)["outcome"].to_pylist() == [values[6].upper(), values[6]]


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda values: [9, *values[1:]], NewerSchema),
        (lambda values: values[:-2], StoredFormError),
        (lambda values: [*values[:6], 2**64 - 1, *values[7:]], StoredFormError),
        (lambda values: [*values[:6], "five", *values[7:]], StoredFormError),
        (lambda values: [*values[:5], None, *values[6:]], StoredFormError),
        (lambda values: [*values[:4], b"short", *values[5:]], StoredFormError),
    ],
)
def test_a_state_that_is_of_another_form_is_named(spoil: Any, error: type[Exception]) -> None:
    made = building.program()
    event, state = next(one for one in golden() if one[0].stored_name == "loyalty.correction_recorded")
    row = (77, event.originator_id.bytes, 1, event.stored_name, msgpack.packb(spoil(msgpack.unpackb(state))))
    with pytest.raises(error, match=r"position 77, loyalty\.correction_recorded"):
        building.table_of(building.prepared(building.chunk_of([row], made), made)[0], made)
    with pytest.raises(UnknownStoredName, match=r"position 77, no\.such"):
        building.chunk_of([(*row[:3], "no.such", row[4])], made)


def test_a_state_that_ends_early_is_never_read_beyond_its_end() -> None:
    made = building.program()
    for event, state in golden():
        for size in range(0, len(state) - 1, 3):
            row = (1, event.originator_id.bytes, 1, event.stored_name, state[:size])
            try:
                chunk, _ = building.prepared(building.chunk_of([row], made), made)
                building.table_of(chunk, made)
            except (StoredFormError, ValueError):
                continue


def test_lots_beyond_the_first_are_told_by_number_and_ids_of_others_stay_ids(lived: Life) -> None:
    made = building.program()
    events = {event.stored_name: (event, msgpack.unpackb(state)) for event, state in golden()}
    fact, values = events["loyalty.goodwill_granted"]
    lot, lots = events["loyalty.lots_extended"]
    lots[4] = values[4]
    stranger = UUID(int=99)
    later = UUID(bytes=lots[2])
    named = [lot_of(fact.event_id, number) for number in (0, 1, 16_000_000)]
    lots[9] = [one.bytes for one in (*named, stranger, later)]
    rows = [
        (1, fact.originator_id.bytes, 1, fact.stored_name, msgpack.packb(values)),
        (2, fact.originator_id.bytes, 2, lot.stored_name, msgpack.packb(lots)),
    ]
    chunk, _ = building.prepared(building.chunk_of(rows, made), made)
    [_, found] = fitted(building.table_of(chunk, made), columns.arrow_schema())["lots_ids"].to_pylist()
    assert found == [
        {"position": 1, "number": None, "id": None},
        {"position": 1, "number": 1, "id": None},
        {"position": 1, "number": 16_000_000, "id": None},
        {"position": None, "number": None, "id": stranger.bytes},
        {"position": None, "number": None, "id": later.bytes},
    ]


def test_it_holds_no_personal_value_sealed_or_not_and_no_key(tmp_path: Path) -> None:
    stem = "Quetzalcoatl"
    with (
        tallybook.open(f"sqlite:///{tmp_path}/shop.book") as book,
        book.acting("agent:lin", purpose="support"),
    ):
        ada = book.customers.register(name=stem, email=f"{stem}@example.org", identifiers={"crm": stem})
        ticket = book.tickets.open(ada, subject=stem, text=stem)
        book.tickets.reply(ticket, author="human", text=stem)
        book.archive.catch_up()
        folder = tmp_path / "shop.book.archive"
        held = b"".join(file.read_bytes() for file in folder.iterdir())
        held += repr(all_rows(archive_of(book, folder))).encode()
        for file in folder.glob("*.parquet"):  # as it is before it is compressed
            plain = io.BytesIO()
            pq.write_table(pq.read_table(file), plain, compression="none", use_dictionary=False)
            held += plain.getvalue()
        needles = [stem.encode()]
        for one in book.follow(timeout_s=0):
            sealed = [getattr(one.event, name) for name in one.event.personal_fields]
            needles += [handle.sealed.blob for handle in sealed if handle is not None]
        assert len(needles) > 3
        assert [needle for needle in needles if needle in held or repr(needle)[2:-1].encode() in held] == []
        mode = stat.S_IMODE((tmp_path / "shop.book").stat().st_mode)
        assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {mode}


# ── following ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_catch_up_writes_a_small_delta_and_many_are_merged_by_themselves(tmp_path: Path) -> None:
    life = Life(f"sqlite:///{tmp_path}/shop.book").live(FULL)
    archive = archive_of(life.book, tmp_path / "archive")
    archive.catch_up()
    before = archive.manifest()
    assert (before.deltas, before.position) == ((), life.book.position())
    life.live([("visit", 0, 1, 1)])
    archive.catch_up()
    one = archive.manifest()
    assert one.files == before.files
    assert [(delta.first, delta.last) for delta in one.deltas] == [(before.position + 1, one.position)]
    assert archive.status().state == "current"
    while archive.manifest().deltas:
        life.live([("visit", 0, 1, 1)])
        archive.catch_up()
    merged = archive.manifest()
    assert 0 < len(set(merged.files) - set(before.files)) <= 2  # the customer's bucket, and nobody's
    assert archive.verify().holds
    names = set(archive.place.names())
    assert {one.name for one in merged.files} <= names
    archive.rebuild()
    archive.rebuild()
    assert set(archive.place.names()) == {MANIFEST, *(one.name for one in archive.manifest().files)}
    life.close()


def test_a_large_backlog_goes_into_several_deltas_and_refers_across_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_ROWS", 7)
    monkeypatch.setattr(module, "DELTA_ROWS", 20)
    monkeypatch.setattr(module, "DELTA_SHARE", 1)
    monkeypatch.setattr(module, "REBUILD_SHARE", 1)
    life = Life(f"sqlite:///{tmp_path}/shop.book").live(FULL[:12])
    archive = archive_of(life.book, tmp_path / "archive")
    archive.catch_up()
    life.live(FULL[12:])
    archive.catch_up()
    assert len(archive.manifest().deltas) >= 5
    assert archive.verify().holds
    assert_same(all_rows(archive), events_of(life.book))
    life.close()


def test_many_small_deltas_become_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DELTA_SHARE", 1)
    monkeypatch.setattr(module, "DELTAS_MAX", 3)
    life = Life(f"sqlite:///{tmp_path}/shop.book").live(FULL)
    archive = archive_of(life.book, tmp_path / "archive")
    archive.catch_up()
    counts = []
    for number in range(6):
        life.live([("visit", number % 3, 1, 1)])
        archive.catch_up()
        counts.append(len(archive.manifest().deltas))
    assert counts == [1, 2, 3, 1, 2, 3]
    assert archive.verify().holds
    assert_same(all_rows(archive), events_of(life.book))
    life.close()


def test_two_writers_wait_for_each_other_and_nothing_is_lost(tmp_path: Path) -> None:
    life = Life(f"sqlite:///{tmp_path}/shop.book").live(FULL[:24])
    with tallybook.open(life.url, create=False) as other:
        archives = [archive_of(book, tmp_path / "archive") for book in (life.book, other)]
        failed: list[BaseException] = []

        def work(archive: Archive) -> None:
            try:
                for _ in range(4):
                    archive.catch_up()
                    archive.rebuild()
                    archive.compact()
            except BaseException as error:  # noqa: BLE001 - the test tells it
                failed.append(error)

        threads = [threading.Thread(target=work, args=[one]) for one in archives]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed
        assert archives[0].verify().holds
    life.close()


def test_who_finds_another_manifest_in_its_place_takes_nothing_away(archive: Archive, monkeypatch: Any) -> None:
    before = archive.place.read(MANIFEST)
    assert before is not None

    def meddle(position: int) -> None:
        del position
        archive.place.write(MANIFEST, before + b"\n")

    monkeypatch.setattr(archive, "_sign", meddle)
    with pytest.raises(Refused) as caught:
        archive.rebuild()
    assert caught.value.code == "busy"
    assert archive.place.read(MANIFEST) == before + b"\n"


def test_a_busy_archive_is_refused(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_S", 0.1)
    hold = archive._hold("archive")
    assert hold is not None
    with pytest.raises(Refused, match="busy"):
        archive.catch_up()
    hold.release()


KILLED = """
import os, signal, sys
import tallybook
from tallybook.adapters.archive import archive, places

left = int(sys.argv[2])
write = places.LocalFolder.write
def writing(self, name, data):
    global left
    left -= 1
    if left < 0:
        (self.path / ("." + name + ".0123.part")).write_bytes(data[:100])
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, name, data)
places.LocalFolder.write = writing
with tallybook.open(sys.argv[1], create=False) as book:
    book.archive.rebuild()
"""


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_killed_in_the_middle_the_old_one_answers_and_leftovers_go(tmp_path: Path, writes: int) -> None:
    life = Life(f"sqlite:///{tmp_path}/shop.book").live(FULL[:24])
    archive = archive_of(life.book, tmp_path / "shop.book.archive")
    archive.rebuild()
    rows = all_rows(archive)
    names = set(archive.place.names())
    life.live(FULL[24:])
    process = subprocess.run([sys.executable, "-c", KILLED, life.url, str(writes)], check=False)
    assert process.returncode == -signal.SIGKILL
    assert set(archive.place.names()) > names
    assert all_rows(archive) == rows
    assert archive.status().state == "behind"
    archive.rebuild()
    archive.rebuild()
    assert set(archive.place.names()) == {MANIFEST, *(one.name for one in archive.manifest().files)}
    assert archive.verify().holds
    life.close()


# ── damage ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def largest(folder: Path, kind: str = "bucket-*") -> Path:
    """The largest file of somebody's rows."""
    return max((file for file in folder.glob(kind) if "bucket-64" not in file.name), key=lambda one: one.stat().st_size)


def flipped(folder: Path) -> str:
    file = largest(folder)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    return f"{file.name} was altered"


def cut(folder: Path) -> str:
    file = largest(folder)
    file.write_bytes(file.read_bytes()[:-20])
    return f"{file.name} has"


def gone(folder: Path) -> str:
    file = largest(folder)
    file.unlink()
    return f"{file.name} is missing"


def delta_gone(folder: Path) -> str:
    file = largest(folder, "delta-*")
    file.unlink()
    return f"{file.name} is missing"


def exchanged(folder: Path) -> str:
    one, other, *_ = sorted(folder.glob("bucket-*"))
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    return f"{one.name} "


def no_json(folder: Path) -> str:
    (folder / MANIFEST).write_bytes((folder / MANIFEST).read_bytes()[:-40])
    return "the manifest can't be read"


def altered_manifest(**changes: Any) -> Any:
    def damage(folder: Path) -> str:
        file = folder / MANIFEST
        manifest = Manifest.parse(file.read_bytes())
        made = replace(manifest, **{name: change(manifest) for name, (change, _) in changes.items()})
        file.write_bytes(made.packed())
        messages: list[str] = [message for _, message in changes.values()]
        return messages[0]

    return damage


DAMAGES = {
    "flipped byte": flipped,
    "truncated file": cut,
    "missing file": gone,
    "missing delta": delta_gone,
    "files in each other's place": exchanged,
    "torn manifest": no_json,
    "another book's": altered_manifest(origin=(lambda _: "tallybook/other", "it is of the book tallybook/other")),
    "another release's": altered_manifest(schema=(lambda _: 99, "its columns are those of another release")),
    "other columns": altered_manifest(columns=(lambda _: "x", "its columns are those of another release")),
    "beyond the log": altered_manifest(
        position=(lambda one: one.position + (1 << 40), "it tells of"),
        frontier=(lambda one: "00" * 32 * (one.position + (1 << 40)).bit_count(), "it tells of"),
    ),
    "another root": altered_manifest(root=(lambda _: "00" * 32, "its root is not that of the tree")),
    "a file left out": altered_manifest(files=(lambda one: one.files[1:], "its files have not as many rows")),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_what_is_torn_or_foreign_is_named_refused_and_made_anew(archive: Archive, lived: Life, damage: Any) -> None:
    message = damage(folder_of(archive))
    fresh = archive_of(lived.book, folder_of(archive))
    status = fresh.status()
    assert (status.state, message in status.problem) == ("stale", True), status.problem
    with pytest.raises(ArchiveError, match="catch-up"):
        fresh.manifest()
    with pytest.raises(ArchiveError):
        fresh.dataset()
    assert not fresh.verify().holds
    fresh.catch_up()
    assert fresh.status().state == "current"
    assert fresh.verify().holds


def test_a_file_that_is_torn_after_it_was_read_is_noticed_by_the_next_catch_up(archive: Archive) -> None:
    archive.manifest()
    message = flipped(folder_of(archive))
    with pytest.raises(ArchiveError, match=message):
        archive.manifest()
    archive.catch_up()
    assert archive.verify().holds
    assert archive.status().state == "current"


def forged(folder: Path, change: Any) -> tuple[str, pa.Table]:
    """Write a file of the archive anew with other rows, under a manifest that fits."""
    manifest = Manifest.parse((folder / MANIFEST).read_bytes())
    file = largest(folder)
    before = pq.read_table(file)
    after = change(before)
    written = io.BytesIO()
    write_parquet(after, written)
    data = written.getvalue()
    digest = sha256(data).hexdigest()
    name = f"{file.name.rpartition('-')[0]}-{digest[:16]}.parquet"
    (folder / name).write_bytes(data)
    files = tuple(
        replace(
            one, name=name, bytes=len(data), sha256=digest
        ) if one.name == file.name else one
        for one in manifest.files
    )  # fmt: skip
    (folder / MANIFEST).write_bytes(replace(manifest, files=files).packed())
    return name, before


def test_an_altered_value_under_a_manifest_that_fits_is_found(archive: Archive, lived: Life) -> None:
    def richer(table: pa.Table) -> pa.Table:
        points = table["points"].to_pylist()
        place = next(index for index, one in enumerate(points) if one)
        points[place] += 1
        return table.set_column(table.column_names.index("points"), "points", pa.array(points, pa.int64()))

    name, before = forged(folder_of(archive), richer)
    fresh = archive_of(lived.book, folder_of(archive))
    assert fresh.status().state == "current"  # nothing tells but the log
    found = fresh.verify()
    place = next(index for index, one in enumerate(before["points"].to_pylist()) if one)
    position = before["position"][place].as_py()
    assert found.problems == (f"{name}: position {position:,} differs from the log in points",)


def test_a_missing_event_and_a_doubled_one_are_found(archive: Archive, lived: Life, tmp_path: Path) -> None:
    """Also where there are as many rows as there should be."""
    other = tmp_path / "other"
    shutil.copytree(folder_of(archive), other)
    name, before = forged(
        folder_of(archive),
        lambda table: pa.concat_tables([table.slice(0, 1), table.slice(2), table.slice(len(table) - 1)]),
    )
    found = archive_of(lived.book, folder_of(archive)).verify()
    assert found.problems == (f"{name}: position {before['position'][1].as_py():,} of the log is missing",)
    name, before = forged(other, lambda table: pa.concat_tables([table.slice(0, 2), table.slice(1, len(table) - 2)]))
    found = archive_of(lived.book, other).verify()
    assert found.problems == (f"{name}: position {before['position'][1].as_py():,} stands where the log has none such",)


def test_a_row_that_the_manifest_does_not_count_is_found(archive: Archive, lived: Life) -> None:
    """It would be seen by who scans all files, though it stands in the bucket of nobody who is looked at."""
    name, before = forged(folder_of(archive), lambda table: pa.concat_tables([table, table.slice(3, 1)]))
    [problem] = archive_of(lived.book, folder_of(archive)).verify().problems
    assert f"{name} can't be read: it has {len(before) + 1:,} rows, and should have {len(before):,}" in problem


def test_buckets_share_a_file_until_they_are_large(tmp_path: Path, monkeypatch: Any) -> None:
    lived = Life(f"sqlite:///{tmp_path}/shop.book").live(FULL)
    small = archive_of(lived.book, tmp_path / "small")
    small.rebuild()
    assert [one.buckets for one in small.manifest().files] == [tuple(range(64)), (64,)]
    monkeypatch.setattr(module, "FILE_ROWS", 4)
    large = archive_of(lived.book, tmp_path / "large")
    large.rebuild()
    assert len(large.manifest().files) > 3
    assert [large.bucket(n) for n in range(65)] == [small.bucket(n) for n in range(65)]
    # What shares a file goes apart when it is merged.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "DELTA_SHARE", 1)
        lived.live([("visit", number, 1, 1) for number in range(3)])
        small.catch_up()
        large.catch_up()
    small.compact()
    assert len(small.manifest().files) > 3
    assert small.verify().holds
    assert small.rows(range(65)) == large.rows(range(65))
    lived.close()


def test_a_log_that_was_altered_after_is_told_from_the_one_that_it_was_made_from(tmp_path: Path) -> None:
    life = Life(f"sqlite:///{tmp_path}/shop.book").live(FULL[:24])
    archive = archive_of(life.book, tmp_path / "archive")
    archive.rebuild()
    database = life.book._core.app.log.database
    with database.session(write=True) as session:
        [(state,)] = session.rows("SELECT state FROM stored_events WHERE topic='loyalty.enrolled' LIMIT 1")
        values = msgpack.unpackb(state)
        values[3] -= 1
        session.run("UPDATE stored_events SET state=? WHERE state=?", [msgpack.packb(values), state])
    found = archive.verify()
    assert len(found.problems) == 2
    assert "of the log have the root" in found.problems[0]
    assert "differs from the log in effective_us" in found.problems[1]
    life.close()


def test_an_archive_of_the_same_book_as_it_once_was_is_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A book that was restored from a backup, and went on otherwise."""
    life = Life(f"sqlite:///{tmp_path}/shop.book").live(FULL[:20])
    shutil.copy(tmp_path / "shop.book", tmp_path / "copy")
    life.live(FULL[20:24])
    archive = archive_of(life.book, tmp_path / "archive")
    archive.rebuild()
    manifest = archive.manifest()
    life.live([("buy", 0, 1, 100)])
    # The tree that the manifest goes on from is another one than the log's.
    wrong = bytes(32).hex() * manifest.position.bit_count()
    from tallybook.adapters.merkle import Frontier

    forged_one = replace(manifest, frontier=wrong, root=Frontier(manifest.position, bytes.fromhex(wrong)).root().hex())
    archive.place.write(MANIFEST, forged_one.packed())
    archive.catch_up()
    assert "the log it was made from is another" in caplog.text
    assert archive.verify().holds
    life.close()


def test_a_checkpoint_of_somebody_else_is_found(archive: Archive, lived: Life) -> None:
    manifest = archive.manifest()
    assert manifest.note is not None
    assert f"\n{manifest.position}\n" in manifest.note
    other = manifest.note.replace(f"\n{manifest.position}\n", f"\n{manifest.position + 1}\n")
    archive.place.write(MANIFEST, replace(manifest, note=other).packed())
    [problem] = archive.verify().problems
    assert "its checkpoint is none of this book" in problem


# ── places and stores ───────────────────────────────────────────────────────────────────────────────────────────────


def test_an_object_store_holds_the_same(lived: Life) -> None:
    fsspec.filesystem("memory").store.clear()
    stored = archive_of(lived.book, "memory://bucket/shop")
    assert stored.status().state == "none"
    stored.catch_up()
    local = archive_of(lived.book, lived.url.removeprefix("sqlite:///") + ".archive")
    assert stored.rows(range(65)) == local.rows(range(65))
    assert stored.dataset().count_rows() == lived.book.position()
    stored.place.remove([stored.manifest().files[0].name, "none such"])
    with pytest.raises(ArchiveError, match="missing"):
        archive_of(lived.book, "memory://bucket/shop").manifest()


class Buckets(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A store as those of clouds are: what is in no bucket is in nothing, and its package has errors of its own."""

    protocol = "buckets"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    buckets: ClassVar[set[str]] = set()
    down: ClassVar[bool] = False

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("buckets://").strip("/")

    def _look(self, path: str) -> None:
        if self.down:
            raise LookupError("no answer from the host")
        if self._strip_protocol(path).strip("/").split("/")[0] not in self.buckets:
            raise FileNotFoundError("no such bucket")

    def mkdir(self, path: str, create_parents: bool = True, **rest: Any) -> None:
        bucket, _, inner = self._strip_protocol(path).strip("/").partition("/")
        if create_parents or not inner:
            self.buckets.add(bucket)
        self._look(path)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **rest: Any) -> None:
        self._look(path)
        super().pipe_file(path, value, mode=mode)

    def cat_file(self, path: str, start: Any = None, end: Any = None, **rest: Any) -> bytes:
        self._look(path)
        found: bytes = super().cat_file(path, start, end)
        return found

    def info(self, path: str, **rest: Any) -> Any:
        self._look(path)
        return super().info(path)

    def ls(self, path: str, detail: bool = True, **rest: Any) -> Any:
        self._look(path)
        return super().ls(path, detail=detail)

    def rm_file(self, path: str) -> None:
        self._look(path)
        super()._rm(path)


@pytest.fixture
def buckets(monkeypatch: pytest.MonkeyPatch) -> type[Buckets]:
    fsspec.register_implementation("buckets", Buckets, clobber=True)
    monkeypatch.setattr(Buckets, "store", {})
    monkeypatch.setattr(Buckets, "buckets", {"here"})
    return Buckets


@pytest.mark.parametrize("url", ["buckets://gone/shop", "buckets://gone"])
def test_a_bucket_that_is_not_there_is_not_made(buckets: type[Buckets], lived: Life, url: str) -> None:
    with pytest.raises(BookError, match=rf"{url}/.* can't be written: no such bucket.*has the bucket"):
        archive_of(lived.book, url).catch_up()
    assert buckets.buckets == {"here"}
    assert archive_of(lived.book, "buckets://here/shop").catch_up() == lived.book.position()


def test_a_store_that_does_not_answer_is_told_in_our_words(
    buckets: type[Buckets], lived: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = archive_of(lived.book, "buckets://here/shop")
    archive.catch_up()
    monkeypatch.setattr(buckets, "down", True)
    calls: list[tuple[str, Callable[[], object]]] = [
        ("read", lambda: archive.place.read(MANIFEST)),
        ("read", lambda: archive.place.token(MANIFEST)),
        ("read", archive.place.names),
        ("written", lambda: archive.place.write(MANIFEST, b"")),
        ("removed", lambda: archive.place.remove([MANIFEST])),
        ("read", archive_of(lived.book, "buckets://here/shop").status),
    ]
    for done, call in calls:
        with pytest.raises(BookError, match=rf"buckets://here/shop.* can't be {done}: no answer from the host"):
            call()


def test_a_place_that_is_none_is_refused(tmp_path: Path, lived: Life) -> None:
    with pytest.raises(BookError, match="names no place"):
        place_of("nosuch://user:secret@host/x")
    with pytest.raises(BookError) as caught:
        place_of("nosuch://user:secret@host/x?key=secret")
    assert "secret" not in str(caught.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(BookError, match="can't be written"):
        archive_of(lived.book, tmp_path / "file").rebuild()


def test_every_store_gives_the_same(book_url: str, tmp_path: Path) -> None:
    life = Life(book_url).live(FULL[:30])
    archive = archive_of(life.book, tmp_path / "archive")
    archive.rebuild()
    assert_same(all_rows(archive), events_of(life.book))
    life.live(FULL[30:34])
    archive.catch_up()
    assert archive.verify().holds
    life.close()


def test_sorting_is_by_subject_and_position_within_the_buckets(lived: Life) -> None:
    archive = archive_of(lived.book, lived.url.removeprefix("sqlite:///") + ".archive")
    for number in range(64):
        table = archive.bucket(number, ["position", "subject_id"])
        assert table.column_names == ["position", "subject_id"]
        keys = [(row["subject_id"], row["position"]) for row in table.to_pylist()]
        assert keys == sorted(keys)
        assert all(subject[0] >> 2 == number for subject, _ in keys)
    assert archive.bucket(64)["subject_id"].null_count == len(archive.bucket(64))
    encoded = pa.concat_tables([archive.bucket(number, encoded=True) for number in range(65)])
    assert pa.types.is_dictionary(encoded.schema.field("stored_name").type)
    assert pc.count_distinct(encoded["stored_name"].cast(pa.string())).as_py() > 10
    with pytest.raises(Refused, match="no column nothing"):
        archive.bucket(1, ["nothing"])
    with pytest.raises(Refused, match="no bucket 65"):
        archive.bucket(65)


def test_the_decoder_knows_the_constants_of_the_columns() -> None:
    assert decoding.NO_SUBJECT == columns.NO_SUBJECT
    assert set(columns.kinds()) < set(REGISTRY)


def test_nothing_heavy_is_loaded_before_an_archive_is_used() -> None:
    script = (
        "import sys, tallybook\n"
        "book = tallybook.open('memory:')\n"
        "print([one for one in ('numba', 'numpy', 'pyarrow', 'fsspec', 'polars', 'duckdb') if one in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ)
    assert told.stdout.strip() == "[]"
