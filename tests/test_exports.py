"""CloudEvents, OCSF, OCEL: each held against its specification, by tools that we did not write where there are any."""

from __future__ import annotations

import errno
import hashlib
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import tallybook
from tallybook import Book
from tallybook.adapters import ocel, outputs
from tallybook.adapters.clear_form import as_json, rfc3339
from tallybook.adapters.cloudevents import cloud_event
from tallybook.adapters.ocsf import ocsf_event
from tallybook.cli import run
from tallybook.domain.access import Exported
from tallybook.domain.errors import BookError, BookFull, Refused
from tallybook.domain.events import REGISTRY
from tallybook.domain.policy import PolicyHistory
from tallybook.projections.read_models import Recorded

from .golden.make import examples

ADA = "Ada Lovelace-Überall"


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Book]:
    """A book with something of each kind in it."""
    with tallybook.open(f"sqlite:///{tmp_path}/shop.book") as book:
        with book.acting("agent:lin", purpose="support", channel="web", on_behalf_of="team:north"):
            fill(book)
        with book.acting("auditor:mo", purpose="audit"):
            yield book


def fill(book: Book) -> None:
    book.rules.adopt(tallybook.__path__[0] + "/data/standard.toml")
    ada = book.customers.register(name=ADA, email="ada@example.org", country="GB", owner="team:north")
    bob = book.customers.register(name="=cmd|' /C calc'!A0", country="DE")
    book.loyalty.enrol(ada)
    line = tallybook.Line(sku="tea", quantity=2, net_minor=90_000)
    bought = book.customers.record_purchase(ada, [line], order_id="O-1")
    book.customers.record_return(ada, {1: 1}, purchase_id=bought.purchase_id, reason="broken")
    book.customers.change(ada, country="FR", clear=["owner"])
    ticket = book.tickets.open(ada, kind="complaint", subject="Secret subject", text="Secret text")
    book.tickets.assign(ticket, owner="agent:lin")
    book.tickets.reply(ticket, text="Sorry", author="human")
    book.tickets.compensate(ticket, 50, reason="late")
    book.tickets.resolve(ticket, outcome="refunded")
    book.tickets.record_satisfaction(ticket, score=4)
    book.tickets.close(ticket)
    book.profiles.get(ada)
    book.profiles.get(bob)
    book.audit.trail()


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_bytes().splitlines()]


# ── CloudEvents ─────────────────────────────────────────────────────────────────────────────────────────────────────

RFC_3339 = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$")
CORE = {"specversion", "id", "source", "type", "subject", "time", "dataschema", "datacontenttype", "data"}


def check_cloud_event(event: dict[str, Any]) -> None:
    """The rules of the CloudEvents 1.0 specification."""
    for required in ("specversion", "id", "source", "type"):
        assert isinstance(event[required], str)
        assert event[required]
    assert event["specversion"] == "1.0"
    assert RFC_3339.match(event["time"])
    datetime.fromisoformat(event["time"])
    assert re.match(r"^[a-z][a-z0-9+.\-]*:[^\s]+$", event["dataschema"]), "an absolute URI"
    assert re.match(r"^[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+$", event["source"]), "a URI reference"
    assert event["datacontenttype"] == "application/json"
    for name, value in event.items():
        assert re.match(r"^[a-z0-9]{1,20}$", name), name
        if name not in CORE:
            assert isinstance(value, (str, bool)) or -(2**31) <= value < 2**31
            if isinstance(value, str):
                assert not any(ord(one) < 32 or 0x7F <= ord(one) < 0xA0 or 0xD800 <= ord(one) < 0xE000 for one in value)


def test_cloudevents_keep_the_rules_of_the_specification(shop: Book, tmp_path: Path) -> None:
    report = shop.exports.cloudevents(tmp_path / "events.jsonl")
    events = lines(tmp_path / "events.jsonl")
    assert len(events) == report.count == shop.position()
    for event in events:
        check_cloud_event(event)
    assert [int(event["position"]) for event in events] == list(range(1, report.count + 1))
    assert len({(event["source"], event["id"]) for event in events}) == report.count
    opened = next(event for event in events if event["type"] == "ticket.opened")
    assert opened["data"] == {"fields": {"kind": "complaint", "severity": None}, "personal": ["subject", "text"]}
    assert (opened["actor"], opened["purpose"], opened["onbehalfof"]) == ("agent:lin", "support", "team:north")


def test_a_batch_of_cloudevents_is_one_array_of_the_same(shop: Book, tmp_path: Path) -> None:
    shop.exports.cloudevents(tmp_path / "one.jsonl")
    shop.exports.cloudevents(tmp_path / "batch.json", batch=True)
    assert json.loads((tmp_path / "batch.json").read_bytes()) == lines(tmp_path / "one.jsonl")


def test_a_follower_gives_the_same_cloudevents(shop: Book, tmp_path: Path) -> None:
    shop.exports.cloudevents(tmp_path / "one.jsonl")
    followed = [cloud_event(recorded, shop.origin) for recorded in shop.follow(timeout_s=0)]
    assert [json.loads(as_json(one)) for one in followed] == lines(tmp_path / "one.jsonl")


# ── OCSF ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@cache
def validator(class_uid: int) -> Any:
    jsonschema, ocsf = pytest.importorskip("jsonschema"), pytest.importorskip("ocsf_json_schema")
    schema = ocsf.OcsfJsonSchemaEmbedded(ocsf.get_ocsf_schema(version="1.8.0"))
    name = schema.lookup_class_name_from_uid(class_uid=class_uid)
    return jsonschema.Draft202012Validator(schema.get_class_schema(class_name=name, profiles=[]))


def check_ocsf(event: dict[str, Any]) -> None:
    found = validator(event["class_uid"]).iter_errors(event)
    problems = [f"{list(one.absolute_path)}: {one.message[:200]}" for one in found]
    assert problems == []
    assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"]
    assert event["metadata"]["version"] == "1.8.0"


def test_ocsf_events_are_valid_by_the_schema_of_1_8(shop: Book, tmp_path: Path) -> None:
    report = shop.exports.ocsf(tmp_path / "ocsf.jsonl")
    events = lines(tmp_path / "ocsf.jsonl")
    assert len(events) == report.count
    for event in events:
        check_ocsf(event)
    assert [event["metadata"]["logged_time"] for event in events] == sorted(
        event["metadata"]["logged_time"] for event in events
    )
    assert {event["unmapped"]["purpose"] for event in events} >= {"support"}


def test_the_schema_s_check_has_teeth(shop: Book, tmp_path: Path) -> None:
    shop.exports.ocsf(tmp_path / "ocsf.jsonl")
    event = lines(tmp_path / "ocsf.jsonl")[0]
    without = {name: value for name, value in event.items() if name != "metadata"}
    for broken in ({**event, "surprise": 1}, {**event, "time": "now"}, without):
        assert list(validator(event["class_uid"]).iter_errors(broken))


def by_name(events: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {event["metadata"]["event_code"]: event for event in events}


def test_reads_grants_and_denials_are_told_in_ocsf_s_own_terms(shop: Book, tmp_path: Path) -> None:
    with shop.acting("admin:kim", purpose="administration"):
        shop.policy.grant("admin:kim", "admin")
        shop.policy.grant("auditor:mo", "auditor")
        shop.policy.grant("agent:lin", "support")
        shop.policy.adopt("shop")
        shop.policy.revoke("agent:lin", "support")
    ada = next(shop.follow(timeout_s=0, names=["customer.registered"])).event.subject_id
    assert ada is not None
    with shop.acting("agent:lin", purpose="support"), pytest.raises(Refused):
        shop.profiles.get(ada)
    with shop.acting("agent:lin", purpose="support"), pytest.raises(Refused) as refused:
        shop.exports.ocsf(tmp_path / "ocsf.jsonl")
    assert refused.value.code == "access_denied"
    shop.exports.ocsf(tmp_path / "ocsf.jsonl")
    events = lines(tmp_path / "ocsf.jsonl")
    for event in events:
        check_ocsf(event)
    named = by_name(events)
    assert (named["policy.role_granted"]["class_uid"], named["policy.role_granted"]["activity_id"]) == (3005, 1)
    assert (named["policy.role_revoked"]["class_uid"], named["policy.role_revoked"]["activity_id"]) == (3005, 2)
    assert named["policy.role_revoked"]["privileges"] == ["support"]
    digest = shop.policy.check("shop").digest()
    by_policy = {"decision": "allowed", "policy": {"uid": digest, "is_applied": True}}
    assert named["policy.role_revoked"]["actor"]["authorizations"] == [by_policy]
    assert named["policy.role_revoked"]["unmapped"]["rules"] == ["admins-run-the-book"]
    assert "authorizations" not in named["policy.adopted"]["actor"]  # none was in force yet
    reads = [event for event in events if event["metadata"]["event_code"] == "access.personal_data_read"]
    denied = [event for event in reads if event["status"] == "Failure"]
    assert [one["actor"]["authorizations"] for one in denied] == [[{**by_policy, "decision": "denied"}]] * 2
    assert [one["unmapped"]["rules"] for one in denied] == [[], []]
    assert [event["status_code"] for event in denied] == ["access_denied"] * 2
    assert denied[0]["entity"]["uid"] == str(ada)
    assert {event["class_uid"] for event in reads} == {3004, 6005}
    assert named["log.opened"]["class_uid"] == 6002


def test_every_stored_name_has_a_form_in_ocsf_and_in_cloudevents() -> None:
    """Also those that no test here records."""
    for name, schema in REGISTRY.items():
        log = "reads" if name.startswith(("access.", "log.")) else "events"
        for event in examples(schema.event_class).values():
            check_ocsf(
                json.loads(as_json(ocsf_event(Recorded(1, event), "tallybook/0", log, "0.1.0", PolicyHistory([]))))
            )
            check_cloud_event(json.loads(as_json(cloud_event(Recorded(1, event), "tallybook/0"))))


# ── OCEL ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def check_ocel(document: dict[str, Any]) -> None:
    """OCEL 2.0: ids unique, types and attributes declared, values of their types, nothing dangling."""
    kinds: dict[str, Any] = {"string": str, "integer": int, "boolean": bool, "time": str}
    declared = {
        part: {one["name"]: {a["name"]: a["type"] for a in one["attributes"]} for one in document[part]}
        for part in ("objectTypes", "eventTypes")
    }
    objects = {one["id"]: one for one in document["objects"]}
    ids = [one["id"] for one in document["objects"]] + [one["id"] for one in document["events"]]
    assert len(ids) == len(set(ids))
    for part, types in (("objects", "objectTypes"), ("events", "eventTypes")):
        for one in document[part]:
            assert set(one) == {"id", "type", "attributes", "relationships"} | ({"time"} if part == "events" else set())
            attributes = declared[types][one["type"]]
            for attribute in one["attributes"]:
                kind = attributes[attribute["name"]]
                assert type(attribute["value"]) is kinds[kind]
                if kind == "time":
                    assert RFC_3339.match(attribute["value"])
                assert part == "events" or RFC_3339.match(attribute["time"])
            for relation in one["relationships"]:
                assert relation["objectId"] in objects
                assert relation["qualifier"]
            pairs = [(relation["objectId"], relation["qualifier"]) for relation in one["relationships"]]
            assert len(pairs) == len(set(pairs))
    for event in document["events"]:
        assert RFC_3339.match(event["time"])
        assert event["relationships"]


def test_an_ocel_log_holds_together(shop: Book, tmp_path: Path) -> None:
    report = shop.exports.ocel(tmp_path / "log.json")
    document = json.loads((tmp_path / "log.json").read_bytes())
    check_ocel(document)
    assert len(document["events"]) == report.count
    own = [one for one in shop.follow(timeout_s=0) if one.event.stored_name.startswith(("book.", "policy."))]
    assert report.count == shop.position() - len(own)
    assert [one["attributes"][0]["value"] for one in document["events"]] == sorted(
        one["attributes"][0]["value"] for one in document["events"]
    )


def test_objects_events_and_what_belongs_to_what(shop: Book, tmp_path: Path) -> None:
    shop.exports.ocel(tmp_path / "log.json")
    document = json.loads((tmp_path / "log.json").read_bytes())
    objects = {one["type"]: one for one in document["objects"] if one["type"] != "customer"}
    customers = [one for one in document["objects"] if one["type"] == "customer"]
    assert len(customers) == 2
    ada = next(one for one in customers if any(a["value"] == "GB" for a in one["attributes"]))
    countries = [(a["name"], a["value"]) for a in ada["attributes"] if a["name"] in ("country", "owner")]
    assert countries == [("country", "GB"), ("owner", "team:north"), ("country", "FR"), ("owner", "")]
    for kind in ("ticket", "account", "order"):
        assert objects[kind]["relationships"] == [{"objectId": ada["id"], "qualifier": "customer"}]
    events = {one["type"]: one for one in document["events"]}
    returned = {(one["objectId"], one["qualifier"]) for one in events["customer.return_recorded"]["relationships"]}
    assert (objects["order"]["id"], "purchase_id") in returned
    goodwill = {(one["objectId"], one["qualifier"]) for one in events["loyalty.goodwill_granted"]["relationships"]}
    assert (objects["ticket"]["id"], "ticket_id") in goodwill
    earned = [
        {(one["objectId"], one["qualifier"]) for one in event["relationships"]}
        for event in document["events"]
        if event["type"] == "loyalty.points_earned"
    ]
    assert any({(objects["order"]["id"], "facts"), (objects["account"]["id"], "account")} <= one for one in earned)


def test_both_forms_of_an_ocel_log_say_the_same(shop: Book, tmp_path: Path) -> None:
    shop.exports.ocel(tmp_path / "log.json")
    shop.exports.ocel(tmp_path / "log.sqlite", sqlite=True)
    ocel.write_json(tmp_path / "again.json", tmp_path / "log.sqlite")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "log.json").read_bytes()


PM4PY = """
import sys, warnings
warnings.simplefilter("ignore")
import pm4py
from pm4py.objects.ocel.validation import ocel20_rel_validation
good, bad = ocel20_rel_validation.apply(sys.argv[1])
print(len(good), bad)
for file, read in ((sys.argv[1], pm4py.read_ocel2_sqlite), (sys.argv[2], pm4py.read_ocel2_json)):
    log = read(file)
    print(len(log.events), len(log.objects), len(log.relations))
"""


@pytest.mark.slow
def test_pm4py_finds_24_of_its_24_constraints_met_and_reads_both_forms(shop: Book, tmp_path: Path) -> None:
    """In a process of its own: pm4py is under the AGPL, and no part of Tallybook."""
    pytest.importorskip("pm4py")
    shop.exports.ocel(tmp_path / "log.json")
    shop.exports.ocel(tmp_path / "log.sqlite", sqlite=True)
    done = subprocess.run(
        [sys.executable, "-c", PM4PY, tmp_path / "log.sqlite", tmp_path / "log.json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    document = json.loads((tmp_path / "log.json").read_bytes())
    relations = sum(len(one["relationships"]) for one in document["events"])
    counts = f"{len(document['events'])} {len(document['objects'])} {relations}"
    assert done.stdout.splitlines()[-3:] == ["24 []", counts, counts]


def test_the_keys_of_an_ocel_database_hold(shop: Book, tmp_path: Path) -> None:
    shop.exports.ocel(tmp_path / "log.sqlite", sqlite=True)
    with closing(sqlite3.connect(tmp_path / "log.sqlite")) as connection:
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.execute("PRAGMA foreign_keys=ON")
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute("INSERT INTO event_object SELECT ocel_id, 'nobody', 'x' FROM event LIMIT 1")


def test_every_event_class_has_attributes_that_ocel_can_hold() -> None:
    for schema in REGISTRY.values():
        assert ocel.event_type(schema.event_class).attributes


# ── what holds for all ──────────────────────────────────────────────────────────────────────────────────────────────


def export_all(book: Book, folder: Path, **given: Any) -> list[Path]:
    book.exports.cloudevents(folder / "events.jsonl", **given)
    book.exports.cloudevents(folder / "batch.json", batch=True, **given)
    book.exports.ocsf(folder / "ocsf.jsonl", log="events", **given)
    book.exports.ocel(folder / "ocel.json", **given)
    book.exports.ocel(folder / "ocel.sqlite", sqlite=True, **given)
    return [folder / name for name in ("events.jsonl", "batch.json", "ocsf.jsonl", "ocel.json", "ocel.sqlite")]


def test_no_personal_value_leaves_the_book(shop: Book, tmp_path: Path) -> None:
    for file in [*export_all(shop, tmp_path), tmp_path / "both.jsonl"]:
        if file.name == "both.jsonl":
            shop.exports.ocsf(file)
        written = file.read_bytes()
        for secret in (ADA, "Lovelace", "ada@example.org", "Secret", "Sorry", "O-1", "calc"):
            assert secret.encode() not in written
            assert json.dumps(secret)[1:-1].encode() not in written


def test_an_empty_book_gives_files_that_are_whole(tmp_path: Path) -> None:
    with tallybook.open("memory:") as book, book.acting("auditor:mo", purpose="audit"):
        export_all(book, tmp_path)
    assert (tmp_path / "events.jsonl").read_bytes() == (tmp_path / "ocsf.jsonl").read_bytes() == b""
    assert json.loads((tmp_path / "batch.json").read_bytes()) == []
    check_ocel(json.loads((tmp_path / "ocel.json").read_bytes()))


def test_a_range_of_positions(shop: Book, tmp_path: Path) -> None:
    report = shop.exports.cloudevents(tmp_path / "part.jsonl", after=3, until=7)
    assert [int(event["position"]) for event in lines(tmp_path / "part.jsonl")] == [4, 5, 6, 7]
    assert (report.first, report.last, report.count) == (4, 7, 4)
    head = shop.position()
    report = shop.exports.cloudevents(tmp_path / "none.jsonl", after=head)  # nothing new since the last one
    assert (report.first, report.last, report.count) == (0, 0, 0)
    for after, until, said in (
        (head + 1, None, "after: the log ends"), (0, head + 1, "until: the log ends"), (4, 3, "until: it lies before"),
    ):  # fmt: skip
        with pytest.raises(Refused, match=said):
            shop.exports.cloudevents(tmp_path / "never.jsonl", after=after, until=until)
        with pytest.raises(Refused, match=said):
            shop.audit.export(tmp_path / "never", after=after, until=until)
    assert not list(tmp_path.glob("never*"))
    shop.exports.ocel(tmp_path / "part.json", after=6)
    check_ocel(json.loads((tmp_path / "part.json").read_bytes()))
    shop.exports.ocsf(tmp_path / "reads.jsonl", log="reads", after=1)
    assert lines(tmp_path / "reads.jsonl")[0]["metadata"]["sequence"] == 2


def test_each_export_is_recorded_with_the_digest_of_what_was_written(shop: Book, tmp_path: Path) -> None:
    files = export_all(shop, tmp_path)
    recorded = [one.event for one in shop._core.reads() if isinstance(one.event, Exported)]
    assert [one.format for one in recorded] == [
        "cloudevents-1.0",
        "cloudevents-1.0-batch",
        "ocsf-1.8.0-events",
        "ocel-2.0-json",
        "ocel-2.0-sqlite",
    ]
    assert [one.digest for one in recorded] == [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    assert {(one.from_position, one.to_position) for one in recorded} == {(1, shop.position())}


def test_nobody_gets_what_could_not_be_recorded(shop: Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise BookError("The log of reads can't be written.")

    monkeypatch.setattr(shop._core.gate, "exported", broken)
    before = sorted(tmp_path.iterdir())
    exports: list[Callable[[Path], object]] = [shop.exports.cloudevents, shop.exports.ocsf, shop.exports.ocel]
    exports.append(shop.audit.export)
    for number, export in enumerate(exports):
        with pytest.raises(BookError):
            export(tmp_path / f"{number}.out")
    assert sorted(tmp_path.iterdir()) == before


def test_arguments_that_make_no_sense_are_refused(shop: Book, tmp_path: Path) -> None:
    wrong: list[dict[str, Any]] = [{"after": -1}, {"until": "x"}, {"log": "all"}, {"after": 3}]
    for given in wrong:
        with pytest.raises(Refused) as refused:
            shop.exports.ocsf(tmp_path / "x", **given)
        assert refused.value.code == "invalid_argument"
    (tmp_path / "there").touch()
    with pytest.raises(BookError, match="there already"):
        shop.exports.cloudevents(tmp_path / "there")
    shop.exports.cloudevents(tmp_path / "there", replace=True)
    with pytest.raises(BookError, match="not there"):
        shop.exports.cloudevents(tmp_path / "none" / "file")


def test_nobody_exports_without_a_name(tmp_path: Path) -> None:
    with tallybook.open("memory:") as book:
        exports: list[Callable[[Path], object]] = [book.exports.cloudevents, book.exports.ocsf, book.exports.ocel]
        for export in exports:
            with pytest.raises(Refused) as refused:
                export(tmp_path / "file")
            assert refused.value.code == "acting_required"
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_no_file(shop: Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(part: Path, target: Path, *, replace: bool = False) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(outputs, "publish", full)
    with pytest.raises(BookFull):
        shop.exports.ocel(tmp_path / "log.json")
    assert sorted(tmp_path.iterdir()) == before


def test_half_of_a_surrogate_pair_is_escaped_and_early_times_have_four_digits() -> None:
    assert json.loads(as_json({"a": "\ud800", "b": "ü"})) == {"a": "\ud800", "b": "ü"}
    assert rfc3339(0) == "1970-01-01T00:00:00.000000Z"
    assert rfc3339(-62_135_596_800_000_000) == "0001-01-01T00:00:00.000000Z"


def answered(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["tallybook", *arguments])
    with pytest.raises(SystemExit) as stop:
        run()
    return int(stop.value.code or 0)


def test_the_command_line_exports(
    shop: Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TALLYBOOK_URL", f"sqlite:///{tmp_path}/shop.book")
    who = ("--actor", "auditor:mo", "--purpose", "audit")
    for kind, name in (("cloudevents", "e.jsonl"), ("ocsf", "o.jsonl"), ("ocel", "l.json"), ("ocel", "l.sqlite")):
        assert answered(monkeypatch, "export", kind, f"{tmp_path}/{name}", *who, "--json") == 0
        told = json.loads(capsys.readouterr().out)
        assert told["digest"] == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    assert answered(monkeypatch, "export", "ocel", f"{tmp_path}/l", *who) == 2
    assert "tells no form" in capsys.readouterr().err
    assert answered(monkeypatch, "export", "cloudevents", f"{tmp_path}/e.jsonl", *who) == 2
    assert answered(monkeypatch, "export", "cloudevents", f"{tmp_path}/f.jsonl") == 2
    assert answered(monkeypatch, "audit", "export", f"{tmp_path}/pack", *who) == 0
    assert "by another way" in capsys.readouterr().out
    assert (tmp_path / "pack" / "manifest").exists()
    assert answered(monkeypatch, "audit", "export", f"{tmp_path}/pack", *who) == 2
