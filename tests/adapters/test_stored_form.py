"""The stored form as a contract: what was written once is read for ever, and a change that breaks that is found."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import pytest
from tests.golden import make
from tools import forms, reference

import tallybook
from tallybook.adapters.codec import EventMapper
from tallybook.domain.events import REGISTRY, Code, Decision, Event, Fact, Schema, Upcaster, Value, stored
from tallybook.domain.personal import Category, Personal, PersonalData, Sensitivity, ShortText
from tallybook.projections.read_models import Recorded, Rows, Table

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"

# ── the events of this release ────────────────────────────────────────────────────────────────────────────────────


def test_nothing_that_was_written_has_changed_its_form() -> None:
    assert forms.broken(REGISTRY, GOLDEN) == []


def test_every_event_has_its_shape_and_its_golden_file() -> None:
    assert forms.missing(REGISTRY, forms.kept(GOLDEN)) == [], "run python -m tests.golden.make"


def test_golden_events_of_every_version_give_the_event_that_they_gave() -> None:
    assert make.misread(REGISTRY, GOLDEN) == []


def test_the_command_that_contributors_are_told_writes_what_is_new_and_never_overwrites(tmp_path: Path) -> None:
    assert "`python -m tests.golden.make`" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    # In a copy: a test must not write the golden file of an event that somebody is working on.
    folder = tmp_path / "tests" / "golden"
    shutil.copytree(GOLDEN, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "forms.py", tmp_path / "tools")
    source = str(Path(tallybook.__file__).parent.parent)

    def run() -> tuple[int, list[str], list[str]]:
        done = subprocess.run(
            [sys.executable, "-m", "tests.golden.make"],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": source}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()

    whole = contents(folder)
    assert run() == (0, [], [])
    kept = forms.kept(folder)
    newest = []
    for name in sorted(REGISTRY)[::7]:
        version = REGISTRY[name].event_class.schema_version
        del kept["events"][name][str(version)]
        if version == 1:
            del kept["events"][name]
        path = forms.golden_path(folder, name, version)
        path.unlink()
        newest.append(path)
    (folder / forms.FORMS).write_text(json.dumps(kept), encoding="utf-8")
    assert run() == (0, [f"wrote  {path.name}" for path in newest], [])
    assert contents(folder) == whole
    newest[0].write_text("altered", encoding="utf-8")
    newest[1].unlink()
    status, wrote, problems = run()
    assert (status, wrote) == (1, [])
    assert [problem.split(" ")[0] for problem in problems] == [path.name for path in newest[:2]]
    assert newest[0].read_text(encoding="utf-8") == "altered"
    assert not newest[1].exists()


# ── made-up events, and each way to break one ─────────────────────────────────────────────────────────────────────


class Part(Value):
    """A nested value."""

    sku: Code
    pieces: int


class LongerPart(Value):
    """The same with a field more."""

    sku: Code
    pieces: int
    weight: int | None = None


class TurnedPart(Value):
    """The same in another order."""

    pieces: int
    sku: Code


def personal(category: Category = Category.IDENTITY, sensitivity: Sensitivity = Sensitivity.ORDINARY) -> Any:
    return Annotated[Personal[ShortText] | None, PersonalData(category, sensitivity)]


FIRST: dict[str, Any] = {
    "amount": int,
    "label": Code | None,
    "parts": tuple[Part, ...],
    "nickname": personal(),
    "phone": personal(Category.CONTACT),
}
NAME = "made.up"


def may_be_nil(kind: Any) -> bool:
    """Whether None is one of the type's choices."""
    return type(None) in typing.get_args(kind) or any(may_be_nil(one) for one in getattr(kind, "__args__", ())[:1])


def registry_of(
    fields: Mapping[str, Any],
    version: int = 1,
    *,
    name: str = NAME,
    base: type[Event] = Fact,
    upcasters: Mapping[int, Upcaster] | None = None,
    former: Mapping[int, Sequence[str]] | None = None,
) -> dict[str, Schema]:
    """A registry of one event with those fields; what may be nil is nil unless given."""
    namespace: dict[str, Any] = {"__annotations__": dict(fields), "__module__": __name__}
    namespace.update({field: None for field, kind in fields.items() if may_be_nil(kind)})
    registry: dict[str, Schema] = {}
    stored(name, version, upcasters=upcasters, former_personal=former, registry=registry)(
        type("MadeUp", (base,), namespace)
    )
    return registry


def without(*names: str) -> dict[str, Any]:
    return {name: kind for name, kind in FIRST.items() if name not in names}


def moved(name: str, place: int) -> dict[str, Any]:
    items = list(without(name).items())
    items.insert(place, (name, FIRST[name]))
    return dict(items)


CHANGES: dict[str, dict[str, Any]] = {
    "a field more": {**FIRST, "store": Code | None},
    "a field less": without("label"),
    "another name": {**without("label"), "title": Code | None},
    "another order": moved("amount", 1),
    "another type": {**FIRST, "amount": Code},
    "optional": {**FIRST, "amount": int | None},
    "no longer optional": {**FIRST, "label": Code},
    "one instead of many": {**FIRST, "parts": Part},
    "a nested field more": {**FIRST, "parts": tuple[LongerPart, ...]},
    "nested fields in another order": {**FIRST, "parts": tuple[TurnedPart, ...]},
    "personal": {**FIRST, "label": personal()},
    "no longer personal": {**FIRST, "phone": Code | None},
    "a personal field more": {**FIRST, "email": personal(Category.CONTACT)},
    "a personal field less": without("phone"),
    "personal fields in another order": moved("phone", 3),
    "another category": {**FIRST, "phone": personal(Category.IDENTITY)},
    "another sensitivity": {**FIRST, "phone": personal(Category.CONTACT, Sensitivity.HIGH)},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the golden file and the shape of the first version."""
    assert make.write(registry_of(FIRST), tmp_path) == 0
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def refused(registry: Mapping[str, Schema], folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The contract is broken; the maker says so and writes nothing. What it says."""
    before = contents(folder)
    capsys.readouterr()
    problems = forms.broken(registry, folder)
    assert problems
    assert make.write(registry, folder) == 1
    assert capsys.readouterr().err.splitlines() == problems
    assert contents(folder) == before
    return "\n".join(problems)


def test_the_first_version_of_an_event_is_written_and_then_holds(folder: Path) -> None:
    assert set(contents(folder)) == {"made.up.v1.json", "forms.json"}
    assert forms.broken(registry_of(FIRST), folder) == []
    assert make.misread(registry_of(FIRST), folder) == []
    shape = forms.kept(folder)["events"][NAME]["1"]
    assert shape["clear"] == ["amount: int", "label: text?", "parts: [{sku: text, pieces: int}]"]
    assert shape["sealed"] == ["nickname: text?, identity, ordinary", "phone: text?, contact, ordinary"]


@pytest.mark.parametrize("change", CHANGES)
def test_another_shape_needs_another_version(change: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "changed without a new version" in refused(registry_of(CHANGES[change]), folder, capsys)


def test_a_fact_that_becomes_a_decision_needs_another_version(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "fact became decision" in refused(registry_of(FIRST, base=Decision), folder, capsys)


@pytest.mark.parametrize("change", CHANGES)
def test_another_version_with_an_upcaster_is_written_beside_the_first(change: str, folder: Path) -> None:
    first = contents(folder)
    names = [name for name in CHANGES[change] if "Personal" not in str(CHANGES[change][name])]
    sample = {"amount": "x" if change == "another type" else 3, "label": "l", "title": "t", "store": None}

    def upcast(clear: list[Any]) -> list[Any]:
        by_name: dict[str, Any] = {**sample, "amount": clear[0], "label": clear[1], "phone": None}
        by_name["parts"] = {
            "one instead of many": clear[2][0],
            "a nested field more": [[*part, None] for part in clear[2]],
            "nested fields in another order": [part[::-1] for part in clear[2]],
        }.get(change, clear[2])
        if change == "another type":
            by_name["amount"] = str(clear[0])
        if change == "no longer optional":
            by_name["label"] = clear[1] or "none"
        return [by_name[name] for name in names]

    second = registry_of(CHANGES[change], 2, upcasters={1: upcast}, former={1: ("nickname", "phone")})
    assert forms.broken(second, folder) == []
    assert make.write(second, folder) == 0
    assert forms.broken(second, folder) == []
    assert make.misread(second, folder) == []
    after = contents(folder)
    assert set(after) == {"made.up.v1.json", "made.up.v2.json", "forms.json"}
    assert after["made.up.v1.json"] == first["made.up.v1.json"]
    assert set(forms.kept(folder)["events"][NAME]) == {"1", "2"}
    assert forms.kept(folder)["events"][NAME]["1"] == json.loads(first["forms.json"])["events"][NAME]["1"]


def same(clear: list[Any]) -> list[Any]:
    return clear


def test_a_new_version_without_an_upcaster_is_not_registered_and_a_gap_is_found(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TypeError, match="needs upcasters from 1 to 1"):
        registry_of(CHANGES["a field more"], 2)
    for version, upcasters in ((2, {}), (2, {2: same}), (2, {1: same, 2: same})):
        registry = registry_of(FIRST, version, upcasters={1: same})
        registry[NAME].upcasters = upcasters
        assert "needs upcasters" in refused(registry, folder, capsys)


def test_a_gap_between_older_upcasters_is_found(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for version in (2, 3):
        upcasters = dict.fromkeys(range(1, version), same)
        assert make.write(registry_of(FIRST, version, upcasters=upcasters), folder) == 0
    registry = registry_of(FIRST, 3, upcasters={1: same, 2: same})
    assert forms.broken(registry, folder) == []
    registry[NAME].upcasters = {2: same}
    assert "needs upcasters" in refused(registry, folder, capsys)


def test_versions_count_on_one_by_one(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "count on" in refused(registry_of(FIRST, 3, upcasters={1: same, 2: same}), folder, capsys)
    assert make.write(registry_of(FIRST, 2, upcasters={1: same}), folder) == 0
    assert "is at version 1, and the newest kept is 2" in refused(registry_of(FIRST), folder, capsys)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "not at 1" in refused(registry_of(FIRST, 2, upcasters={1: same}), empty, capsys)


def test_a_stored_name_is_for_ever(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "made.up is gone" in refused({}, folder, capsys)
    assert "made.up is gone" in refused(registry_of(FIRST, name="made.over"), folder, capsys)
    assert make.write({**registry_of(FIRST), **registry_of(FIRST, name="made.over")}, folder) == 0


def test_a_golden_file_is_neither_lost_nor_altered_nor_left_over(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second = registry_of(FIRST, 2, upcasters={1: same})
    assert make.write(second, folder) == 0
    for version in (1, 2):
        path = forms.golden_path(folder, NAME, version)
        content = path.read_bytes()
        path.unlink()
        assert f"{path.name} is missing" in refused(second, folder, capsys)
        path.write_bytes(content.replace(b'"full"', b'"fool"'))
        assert f"{path.name} was altered" in refused(second, folder, capsys)
        path.write_bytes(content)
    assert forms.broken(second, folder) == []
    shutil.copy(forms.golden_path(folder, NAME, 1), folder / "made.over.v1.json")
    assert "made.over.v1.json is not in forms.json" in refused(second, folder, capsys)


def test_a_golden_file_of_a_released_version_is_not_written_again_though_its_shape_was_lost(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / forms.FORMS).unlink()
    assert "made.up.v1.json is not in forms.json" in refused(registry_of(FIRST), folder, capsys)


def test_shapes_of_older_versions_are_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    second = registry_of(FIRST, 2, upcasters={1: same})
    assert make.write(second, folder) == 0
    kept = forms.kept(folder)
    del kept["events"][NAME]["1"]
    (folder / forms.FORMS).write_text(json.dumps(kept))
    assert "put back those that are missing" in refused(second, folder, capsys)


def test_what_an_older_version_sealed_is_named_in_its_order(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for former in ({}, {1: ("phone", "nickname")}, {1: ("nickname",)}):
        forgot = registry_of(without("phone"), 2, upcasters={1: same}, former=former)
        assert "former_personal[1] must be ('nickname', 'phone')" in refused(forgot, folder, capsys)


def test_what_every_event_carries_does_not_change(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forms, "envelope", lambda: ["event_id: id"])
    assert "what every event carries has changed" in refused(registry_of(FIRST), folder, capsys)


def test_an_upcaster_that_is_changed_later_is_found(folder: Path) -> None:
    def doubled(clear: list[Any]) -> list[Any]:
        return [clear[0] * 2, *clear[1:]]

    assert make.write(registry_of(FIRST, 2, upcasters={1: same}), folder) == 0
    changed = registry_of(FIRST, 2, upcasters={1: doubled})
    assert forms.broken(changed, folder) == []
    assert "version 1 is read as something else" in "".join(make.misread(changed, folder))


def test_a_decoder_that_is_changed_later_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = EventMapper.read

    def other(self: EventMapper, *args: Any, **kwargs: Any) -> Event:
        return read(self, *args, **kwargs).model_copy(update={"amount": 1})

    monkeypatch.setattr(EventMapper, "read", other)
    assert make.misread(registry_of(FIRST), folder) == ["made.up.v1.json says something else"]


def test_the_catalogue_shows_every_version_of_an_event_with_its_fields_by_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for registry in VERSIONS:
        assert make.write(registry, tmp_path) == 0
    monkeypatch.setattr(reference, "REGISTRY", VERSIONS[2])
    monkeypatch.setattr(reference, "GOLDEN", tmp_path)
    page = reference.events()
    assert "| [`made.up`](#madeup) | 3 | fact |" in page
    newest, second, first = page[page.index("## `made.up`") :].split("\nVersion ")
    assert "*fact, version 3.*" in newest
    assert "| 6 | cents | `int` | |\n| 7 | currency | `text` | |\n" in newest
    assert "| sealed, bit 0 | email | `text?` | identity, ordinary |\n| sealed, bit 1 | nickname |" in newest
    assert second.startswith("2 was a fact")
    assert "| 6 | cents | `int` | |\n| 7 | label | `text?` | |\n" in second
    assert first.startswith("1 was a fact")
    assert "| 8 | parts | `[{sku: text, pieces: int}]` | |" in first


# ── one event through three versions, in a book ───────────────────────────────────────────────────────────────────

SECOND: dict[str, Any] = {"cents": int, "label": Code | None, "nickname": personal(), "phone": personal()}
THIRD: dict[str, Any] = {"cents": int, "currency": Code, "email": personal(), "nickname": personal()}


def to_cents(clear: list[Any]) -> list[Any]:
    amount, label, _ = clear
    return [amount * 100, label]


def to_currency(clear: list[Any]) -> list[Any]:
    cents, label = clear
    return [cents, "EUR" if label == "eu" else "USD"]


VERSIONS = (
    registry_of({**without("phone"), "phone": personal()}),
    registry_of(SECOND, 2, upcasters={1: to_cents}),
    registry_of(
        THIRD,
        3,
        upcasters={1: to_cents, 2: to_currency},
        former={1: ("nickname", "phone"), 2: ("nickname", "phone")},
    ),
)
GIVEN: tuple[dict[str, Any], ...] = (
    {"amount": 12, "label": "eu", "parts": (Part(sku="a", pieces=1),), "nickname": "Lin", "phone": "+49 30"},
    {"cents": 1250, "label": None, "nickname": "Lin", "phone": "+49 30"},
    {"cents": 99, "currency": "JPY", "nickname": "Linnea", "email": "lin@example.org"},
)


class Sums:
    """A read model of made-up events: what they add up to, by currency."""

    name = "sums"
    version = 1
    table = Table("sums", (("currency", "text"), ("cents", "integer")), ("currency",))
    tables = (table,)

    def fold(self, batch: Sequence[Recorded], rows: Rows) -> None:
        for _, event in batch:
            if event.stored_name == NAME:
                currency, cents = event.currency, event.cents  # type: ignore[attr-defined]  # of the third version
                before = rows.get(self.table, (currency,))
                rows.put(self.table, (currency,), (currency, cents + (before[1] if before else 0)))


def test_an_event_of_three_versions_is_stored_upcast_read_projected_and_certified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/shop.book"
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        book.rules.adopt("standard")
        ada = book.customers.register(name="Ada")
        book.loyalty.enrol(ada)
        book.customers.record_purchase(ada, [{"sku": "s", "quantity": 1, "net_minor": 5000}], currency="USD")
    rows: list[tuple[Any, ...]] = []
    for version, (registry, given) in enumerate(zip(VERSIONS, GIVEN, strict=True), 1):
        # Each release opens the book with what it knows, and writes an event of its own.
        monkeypatch.setitem(REGISTRY, NAME, registry[NAME])
        with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
            core = book._core
            event = registry[NAME].event_class(
                originator_id=make.SPACE,
                originator_version=version,
                event_id=core.new_id(),
                effective_us=version,
                subject_id=ada,
                metadata=core.gate_metadata(core.acting_now()),
                **given,
            )
            core.app.log.append(core.app.codec.rows([event]))
            # Nothing that was written before was touched: the log commits to stored bytes.
            found = list(core.app.log.iterate())
            assert found[: len(rows)] == rows
            assert len(found) > len(rows)
            rows = found
            verified = book.audit.verify()
            assert all(one.holds for one in verified)
            assert book.replay().holds
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        core = book._core
        assert [row[4][1] for row in rows if row[3] == NAME] == [1, 2, 3], "each is stored as its release wrote it"
        events = [recorded for recorded in core.history() if recorded.event.stored_name == NAME]
        read: list[Any] = [event for _, event in events]
        assert [(event.cents, event.currency) for event in read] == [(1200, "EUR"), (1250, "USD"), (99, "JPY")]
        texts = core.opened(core.acting_now(), "test", events, ada)
        assert texts == [{"nickname": "Lin"}, {"nickname": "Lin"}, {"email": "lin@example.org", "nickname": "Linnea"}]
        # Every read model folds them, those that ship and one that knows them by name.
        assert [one.fields for one in book.audit.trail(ada) if one.action == NAME] == [
            ("nickname",),
            ("nickname",),
            ("email", "nickname"),
        ]
        timeline = [entry for entry in book.profiles.timeline(ada) if entry.action == NAME]
        assert [entry.details for entry in timeline] == [
            {"cents": 1200, "currency": "EUR"}, {"cents": 1250, "currency": "USD"}, {"cents": 99, "currency": "JPY"},
        ]  # fmt: skip
        sums: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        Sums().fold(events, DictRows(sums))
        assert sorted(sums.values()) == [("EUR", 1200), ("JPY", 99), ("USD", 1250)]
        assert book.replay().holds
        (events_log, _), (before, _) = book.audit.verify(), verified
        assert (events_log.root, events_log.size, events_log.holds) == (before.root, before.size, True)


class DictRows:
    """Rows in a dict."""

    def __init__(self, held: dict[tuple[Any, ...], tuple[Any, ...]]) -> None:
        self.held = held

    def load(self, table: Table, keys: Any) -> None:
        """All are there."""

    def get(self, table: Table, key: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return self.held.get(key)

    def put(self, table: Table, key: tuple[Any, ...], row: tuple[Any, ...]) -> None:
        self.held[key] = row


def test_a_release_that_does_not_know_the_newer_version_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = make.keyring()
    event: Any = make.examples(VERSIONS[2][NAME].event_class)["full"]
    row = EventMapper(ring, VERSIONS[2]).to_stored_event(event)
    with pytest.raises(tallybook.NewerSchema, match="Upgrade"):
        EventMapper(ring, VERSIONS[1]).to_domain_event(row)
