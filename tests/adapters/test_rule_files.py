"""Rule set files: what is wrong is named; what a rule set depends on is frozen."""

from __future__ import annotations

import json
import sys
import tempfile
import tomllib
import zoneinfo
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tallybook
from tallybook.adapters.rule_files import FROZEN_FROM, FROZEN_TO, PACKAGED, frozen_zone, load_rule_set
from tallybook.domain.calendar import UTC_ZONE
from tallybook.domain.errors import MissingExtra, RuleSetError
from tallybook.domain.events import from_us, to_us
from tallybook.domain.rules import parse_rule_set

DATA = Path(tallybook.__file__).parent / "data"
SHIPPED = sorted(set(DATA.rglob("*.toml")) - set(DATA.rglob("*.policy.toml")))
STANDARD = Path(tallybook.__file__).parent / "data" / "standard.toml"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rules.toml"


def problems(file: Path) -> str:
    with pytest.raises(RuleSetError) as caught:
        load_rule_set(file)
    assert caught.value.source == str(file)
    assert caught.value.problems
    assert str(file) in str(caught.value)
    return "; ".join(caught.value.problems)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_the_rule_sets_that_ship_with_the_package_load(path: Path) -> None:
    rule_set = load_rule_set(path)
    assert rule_set.label.count("@") == 1
    assert load_rule_set(str(path)).digest() == rule_set.digest()


def test_every_rule_set_that_ships_has_a_name() -> None:
    assert sorted(PACKAGED.values()) == sorted(str(path.relative_to(DATA)) for path in SHIPPED)
    assert {name: Path(file).stem for name, file in PACKAGED.items()} == {name: name for name in PACKAGED}


@pytest.mark.parametrize("name", PACKAGED)
def test_a_rule_set_that_ships_is_named_without_a_path_unless_a_file_is_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    [shipped] = [path for path in SHIPPED if path.stem == name]
    for called in (name, Path(name)):
        assert load_rule_set(called).digest() == load_rule_set(shipped).digest()
    Path(name).write_text(
        shipped.read_text(encoding="utf-8").replace('version = "1"', 'version = "mine"'), encoding="utf-8"
    )
    assert load_rule_set(name).label.endswith("@mine")
    Path(name).write_text("")
    problems(Path(name))
    Path(name).unlink()
    Path(name).mkdir()
    assert "folder" in problems(Path(name))


def test_a_file_that_is_not_there_or_is_a_folder_is_named(tmp_path: Path) -> None:
    assert "not there" in problems(tmp_path / "nowhere.toml")
    assert "folder" in problems(tmp_path)
    assert "not there" in problems(tmp_path / "nowhere" / "rules.toml")


def test_a_path_through_a_file_is_a_rule_set_error(file: Path) -> None:
    file.write_text("")
    problems(file / "rules.toml")


@pytest.mark.parametrize(
    "text",
    ["name = ", "= 1", "[[earning]", 'name = "a"\nname = "b"', "name: standard", "{}", "name = 'x", "\x00", "a = 1\r2"],
)
def test_what_is_no_toml_is_named_with_its_place(file: Path, text: str) -> None:
    file.write_text(text, newline="")
    assert "not TOML" in problems(file)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1", "gb18030"])
def test_a_file_in_another_encoding_asks_for_utf_8(file: Path, encoding: str) -> None:
    file.write_bytes(
        STANDARD.read_text(encoding="utf-8").replace("points live", "müßig 客户").encode(encoding, "replace")
    )
    assert problems(file)
    if encoding != "utf-16-le":
        assert "UTF-8" in problems(file)


def test_a_byte_order_mark_as_some_editors_write_it_is_passed_over(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + STANDARD.read_bytes())
    assert load_rule_set(file).digest() == load_rule_set(STANDARD).digest()


def test_line_ends_of_windows_change_nothing(file: Path) -> None:
    file.write_bytes(STANDARD.read_bytes().replace(b"\n", b"\r\n"))
    assert load_rule_set(file).digest() == load_rule_set(STANDARD).digest()


def test_an_empty_file_names_all_that_is_missing(file: Path) -> None:
    file.write_text("")
    found = problems(file)
    for name in ("name", "version", "currency", "earning", "expiry", "tiers"):
        assert name in found


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ("points = 1\n", "points = 1.5\n", "earning.0.points: "),
        ("points = 1\n", "points = 0\n", "earning.0.points: "),
        ("per_minor = 100", 'per_minor = "100 cents"', "earning.0.per_minor: "),
        ('"3/2"', "1.5", "earning.1.factor: "),
        ('"3/2"', '"3/0"', "earning.1.factor: "),
        ('rounding = "floor"', 'rounding = "down"', "rounding"),
        ('currency = "USD"', 'currency = "dollars"', "currency"),
        ("threshold = 100", "threshold = 500", "tiers.levels.2.threshold: "),
        ('id = "large-basket"', 'id = "base"', "earning.1.id: 'base' is there twice"),
        ("months = 12\n", "months = 12\nnever = true\n", "expiry"),
        ('earning = "debt"', 'earning = "debt"\nsurprise = 1', "refunds.surprise: "),
        (
            "order.net_minor >=",
            "order.colour >=",
            "earning.1.when: line 1, column 1: no field is called `order.co",
        ),
    ],
)
def test_what_is_wrong_in_a_rule_set_is_named_by_its_path(file: Path, old: str, new: str, path: str) -> None:
    text = STANDARD.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    assert path in problems(file)


@pytest.mark.parametrize(
    "zone",
    ["Mars/Olympus", "", "/etc/passwd", "../../etc/passwd", "Europe", "Europe/Rome\\u0000", "x" * 300, "New York"],
)
def test_a_zone_that_nobody_knows_is_named(file: Path, zone: str) -> None:
    text = STANDARD.read_text(encoding="utf-8").replace('zone = "America/New_York"', f'zone = "{zone}"')
    file.write_text(text, encoding="utf-8")
    assert "zone" in problems(file)


# A file is read by whoever got it in the mail: whatever it holds, it is a rule set or a RuleSetError.
@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 2000), st.integers(0, 50))
def test_any_bytes_give_a_rule_set_or_a_rule_set_error(data: bytes, at: int, gone: int) -> None:
    whole = STANDARD.read_bytes()
    at %= len(whole)
    for content in (data, whole[:at] + data[:3] + whole[at + gone :], whole[:at]):
        with tempfile.NamedTemporaryFile(suffix=".toml") as file:
            file.write(content)
            file.flush()
            try:
                found = load_rule_set(file.name).label
            except RuleSetError as error:
                found = error.problems[0]
        assert found


def test_a_file_without_end_and_a_number_without_end_are_rule_set_errors(file: Path) -> None:
    assert "more than 4000000 bytes" in problems(Path("/dev/zero"))
    file.write_text("points = " + "9" * 5000)
    assert "a number in it has thousands of digits" in problems(file)


@pytest.mark.parametrize("depth", [100, 2000, 100_000])
def test_nesting_without_end_is_a_rule_set_error(file: Path, depth: int) -> None:
    file.write_text("x = " + "[" * depth + "]" * depth)
    problems(file)
    file.write_text(
        STANDARD.read_text(encoding="utf-8").replace("order.net_minor >= 5000", "(" * depth + "true" + ")" * depth),
        encoding="utf-8",
    )
    assert "earning.1.when: " in problems(file)


# ── JSON ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", PACKAGED)
def test_what_is_written_as_json_is_the_same_rule_set(tmp_path: Path, name: str) -> None:
    wanted = load_rule_set(name)
    for called in ("rules.json", "RULES.JSON"):
        (tmp_path / called).write_text(wanted.canonical(), encoding="utf-8")
        assert load_rule_set(tmp_path / called) == wanted
        assert load_rule_set(tmp_path / called).digest() == wanted.digest()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "not JSON"),
        ('{"name": }', "not JSON: Expecting value: line 1 column 10"),
        ("name = 1", "not JSON"),
        ('{"name": "a", "name": "b"}', "the key 'name' is there twice"),
        ('{"tiers": {"levels": [{"a": 1, "a": 2}]}}', "the key 'a' is there twice"),
        ('{"holds_days": NaN}', "NaN is no number of JSON"),
        ('{"holds_days": -Infinity}', "-Infinity is no number of JSON"),
        ("[]", "no table"),
        ('{"holds_days": 1e2}', "holds_days: "),
        ("[" * 100_000, "nested too deep"),
        ("{" * 10, "not JSON"),
    ],
)
def test_what_is_wrong_in_json_is_named(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "rules.json"
    file.write_text(text, encoding="utf-8")
    assert told in problems(file)


def test_a_name_that_is_neither_file_nor_shipped_is_told_what_ships(tmp_path: Path) -> None:
    with pytest.raises(RuleSetError, match="the rule sets that ship are called standard, candidate, stars"):
        load_rule_set("starz")
    assert "ship" not in problems(tmp_path / "starz")


# ── frozen zones ──────────────────────────────────────────────────────────────────────────────────────────────────

ZONES = [
    "America/New_York",
    "America/Sao_Paulo",
    "Europe/Rome",
    "Europe/Dublin",
    "Europe/Lisbon",
    "Europe/Moscow",
    "Africa/Casablanca",
    "Africa/El_Aaiun",
    "Asia/Shanghai",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Asia/Gaza",
    "Asia/Tehran",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Kiritimati",
    "America/St_Johns",
    "Antarctica/Troll",
]


@pytest.mark.parametrize("name", ZONES)
def test_a_frozen_zone_is_what_zoneinfo_says_at_and_around_every_change_and_on_every_day(name: str) -> None:
    frozen, real = frozen_zone(name), zoneinfo.ZoneInfo(name)
    assert frozen.name == name
    assert frozen.tzdata
    assert list(frozen.starts_us) == sorted(set(frozen.starts_us))
    assert len(frozen.starts_us) == len(frozen.offsets_s)
    moments = [start + delta for start in frozen.starts_us[1:] for delta in (-1_000_000, -1, 0, 1_000_000)]
    day = datetime(FROZEN_FROM, 1, 1, 12, tzinfo=UTC)
    while day.year < FROZEN_TO:
        moments.append(to_us(day))
        day += timedelta(days=3)
    for moment in moments:
        offset = from_us(moment).astimezone(real).utcoffset()
        assert offset is not None
        assert frozen.local_us(moment) == moment + int(offset.total_seconds()) * 1_000_000, from_us(moment)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(ZONES), st.datetimes(datetime(1970, 1, 1), datetime(2099, 12, 31)))  # noqa: DTZ001 - naive on purpose
def test_a_frozen_zone_reads_wall_clocks_as_zoneinfo_does(name: str, wall: datetime) -> None:
    wall = wall.replace(microsecond=0)
    frozen, real = frozen_zone(name), zoneinfo.ZoneInfo(name)
    local = to_us(wall.replace(tzinfo=UTC))
    assert from_us(frozen.utc_us(local)) == wall.replace(tzinfo=real, fold=0).astimezone(UTC)


def test_utc_is_frozen_without_tzdata_and_a_zone_is_frozen_once() -> None:
    assert frozen_zone("UTC") is UTC_ZONE
    assert frozen_zone("Europe/Rome") is frozen_zone("Europe/Rome")


def test_an_adopted_rule_set_decides_by_the_zone_that_was_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    with tallybook.open("memory:") as book, book.acting("agent:lin", purpose="test"):
        book.rules.adopt(STANDARD, effective_at="1996-01-01T00:00:00Z")
        [event] = [recorded.event for recorded in book._core.history()]
        frozen = frozen_zone("America/New_York")
        assert (event.zone_starts_us, event.zone_offsets_s) == (frozen.starts_us, frozen.offsets_s)  # type: ignore[attr-defined]  # adopted
        assert event.tzdata == frozen.tzdata  # type: ignore[attr-defined]  # adopted

        def gone(name: str) -> None:
            raise zoneinfo.ZoneInfoNotFoundError(name)

        monkeypatch.setattr(zoneinfo, "ZoneInfo", gone)
        ada = book.customers.register(name="Ada")
        book.loyalty.enrol(ada)
        assert book.replay().holds


def as_yaml(value: Any, indent: str = "") -> str:
    """YAML in block style, of what TOML holds."""
    if isinstance(value, dict):
        return "".join(f"\n{indent}{key}:{as_yaml(one, indent + '  ')}" for key, one in value.items())
    if isinstance(value, list) and value:
        return "".join(f"\n{indent}-{as_yaml(one, indent + '  ')}" for one in value)
    return " " + (json.dumps(value) if not isinstance(value, date) else value.isoformat())


@pytest.mark.parametrize("name", ["x.yaml", "x.yml", "x.YAML"])
def test_yaml_gives_the_same_rule_set(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    for shipped in SHIPPED:
        document = tomllib.loads(shipped.read_text(encoding="utf-8"))
        file.write_text("# rules\n" + as_yaml(document), encoding="utf-8")
        assert load_rule_set(file).digest() == parse_rule_set(document, "as TOML").digest()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: a\nname: b", 'not YAML: found duplicate key "name" with value "b" (original value: "a") (line 2'),
        ("earning: [", "not YAML: expected the node content, but found '<stream end>' (line 1, column 11)"),
        ("name: &x standard\nversion: *x", "line 2: aliases (*) are not read"),
        ("name: !!python/object:os.system x", "line 1: tags (!) are not read"),
        ("version: 1\nname: !!bool x", "line 2: tags (!) are not read"),
        ("name: a\nearning: !!seq [1]", "line 2: tags (!) are not read"),
        ("!!map\nname: a", "line 1: tags (!) are not read"),
        ("name: ! a", "line 1: tags (!) are not read"),
        ("name: a\n---\nname: b", "not YAML: "),
        ("\tname: a", "not YAML: found character"),
        ("name: \x07", "not YAML: "),
        ("", "no table"),
        ("- name", "no table"),
        ("a: " + "[" * 5000 + "]" * 5000, "nested too deep"),
    ],
)
def test_what_is_no_yaml_is_named_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(text)
    assert told in problems(file)


def test_without_the_extra_yaml_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text("name: a")
    monkeypatch.delitem(sys.modules, "tallybook.adapters.yaml_files", raising=False)
    monkeypatch.setitem(sys.modules, "ruamel.yaml", None)
    with pytest.raises(MissingExtra, match=r"tallybook\[yaml\]"):
        load_rule_set(file)
