"""The command line, as its users meet it: answers, JSON, exit status, messages."""

from __future__ import annotations

import csv
import io
import json
import lzma
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import pytest

import tallybook
from tallybook import cli
from tallybook.demo import run_demo

from .conftest import CANDIDATE, MASTER, STANDARD


class Answer(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Answer]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["tallybook", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.run()
        captured = capsys.readouterr()
        return Answer(int(stop.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "purchases.txt"
    with lzma.open(MASTER, "rb") as master:
        path.write_bytes(b"".join(master.readline() for _ in range(301)))
    return path


@pytest.fixture
def url(tmp_path: Path, lines: Path, run: Run) -> str:
    url = f"sqlite:///{tmp_path}/shop.book"
    adopted = run(
        "rules", "adopt", STANDARD, "--book", url, "--from", "1997-01-01T00:00:00Z",
        "--actor", "owner:x", "--purpose", "programme",
    )  # fmt: skip
    assert adopted == (0, "standard@1 is adopted from 1997-01-01T00:00:00Z on.\n", "")
    imported = run("import", "cdnow", lines, "--book", url, "--json")
    assert imported.status == 0
    assert imported.json["recorded"] == imported.json["purchases"] == 300
    return url


WHO = ("--actor", "agent:lin", "--purpose", "support")


def test_importing_again_says_that_nothing_is_new(url: str, lines: Path, run: Run) -> None:
    again = run("import", "cdnow", lines, "--book", url)
    assert again == (0, "Nothing new: all 300 purchases of purchases.txt were recorded before.\n", "")


def test_a_broken_line_stops_with_file_and_line_and_records_nothing(tmp_path: Path, url: str, run: Run) -> None:
    bad = tmp_path / "bad.txt"
    bad.write_text(" 00001 19970101  1   11.77\n 00002 19971301  1   12.00\n")
    before = run("projections", "status", "--book", url, "--json").json[0]["head"]
    stopped = run("import", "cdnow", bad, "--book", url)
    assert stopped.status == 2
    assert "bad.txt, line 2: there is no such date" in stopped.err.replace("\n", " ")
    assert run("projections", "status", "--book", url, "--json").json[0]["head"] == before


def test_skip_bad_sets_broken_lines_aside(tmp_path: Path, url: str, run: Run) -> None:
    bad = tmp_path / "bad.txt"
    bad.write_text(" 00001 19970101  1   11.77\n 00002 19971301  1   12.00\n")
    done = run("import", "cdnow", bad, "--book", url, "--skip-bad", tmp_path / "rejected.txt", "--json")
    assert done.status == 0
    assert (done.json["recorded"], done.json["rejected"]) == (1, 1)
    assert (tmp_path / "rejected.txt").read_text() == " 00002 19971301  1   12.00\n"


def test_a_reject_file_overwrites_nothing(tmp_path: Path, url: str, run: Run) -> None:
    bad = tmp_path / "bad.txt"
    bad.write_text(" 00001 19970101  1   11.77\n 00002 19971301  1   12.00\n")
    before = run("projections", "status", "--book", url, "--json").json[0]["head"]
    for target in (tmp_path / "shop.book", tmp_path / "shop.book.keys", bad, tmp_path / "nowhere" / "rejected.txt"):
        held = target.read_bytes() if target.exists() else None
        refused = run("import", "cdnow", bad, "--book", url, "--skip-bad", target)
        assert refused.status == 2
        assert str(target) in refused.err
        assert (target.read_bytes() if target.exists() else None) == held
    assert run("projections", "status", "--book", url, "--json").json[0]["head"] == before
    assert run("audit", "verify", "--book", url).status == 0


@pytest.mark.parametrize("factor", ["0.1e-400000000", "1_0/3", "１/２", "1/0", "-1", ""])
def test_a_factor_that_is_none_is_refused_at_once(tmp_path: Path, run: Run, factor: str) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(STANDARD.read_text(encoding="utf-8").replace('"3/2"', f'"{factor}"'), encoding="utf-8")
    checked = run("rules", "check", wrong, "--json")
    assert checked.status == 1
    assert "factor" in " ".join(checked.json["problems"])


def test_personal_data_needs_an_actor_and_a_purpose(url: str, run: Run) -> None:
    for command in (
        ["show", "customer", "cdnow:00001"],
        ["segments"],
        ["audit", "trail", "--subject", "cdnow:00001"],
    ):
        refused = run(*command, "--book", url, "--json")
        assert refused.status == 2
        assert json.loads(refused.err)["error"]["code"] == "acting_required"
        assert refused.out == ""


def test_show_customer_tells_which_event_set_each_field(url: str, run: Run) -> None:
    shown = run("show", "customer", "cdnow:00002", "--book", url, *WHO, "--as-of", "1997-12-31", "--json").json
    assert shown["purchases"] == 2
    assert shown["identifiers"]["cdnow"]["value"] == "00002"
    assert shown["identifiers"]["cdnow"]["position"] > 1
    assert "00002" in run("show", "customer", "cdnow:00002", "--book", url, *WHO).out


def test_show_customer_before_its_time_is_refused(url: str, run: Run) -> None:
    early = run("show", "customer", "cdnow:00002", "--book", url, *WHO, "--as-of", "1996-12-31")
    assert (early.status, early.out) == (2, "")
    assert "unknown_customer" in early.err
    nobody = run("show", "customer", "cdnow:99999", "--book", url, *WHO)
    assert "unknown_customer" in nobody.err


def test_show_account_lists_lots(url: str, run: Run) -> None:
    account = run("show", "account", "cdnow:00002", "--book", url, "--as-of", "1997-06-30", "--json", *WHO).json
    assert account["active"] == sum(lot["points"] for lot in account["lots"]) > 0
    assert "Lots, in the order of use" in run("show", "account", "cdnow:00002", "--book", url, *WHO).out


def test_show_ticket(url: str, run: Run) -> None:
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        customer = book.customers.find("cdnow", "00001")
        assert customer is not None
        case = book.tickets.open(customer, subject="Parcel damaged", kind="complaint")
    shown = run("show", "ticket", case, "--book", url, "--json").json
    assert (shown["state"], shown["kind"]) == ("new", "complaint")
    assert "complaint" in run("show", "ticket", case, "--book", url).out
    assert "invalid_argument" in run("show", "ticket", customer, "--book", url).err
    assert "unknown_ticket" in run("show", "ticket", UUID(int=7), "--book", url).err
    texts = run("show", "ticket", case, "--texts", "--book", url, *WHO)
    assert "Parcel damaged" in texts.out
    assert "acting_required" in run("show", "ticket", case, "--texts", "--book", url).err


def test_tiers_and_their_members(url: str, run: Run) -> None:
    counts = run("tiers", "--book", url, "--as-of", "1997-06-30", "--json").json
    members = run("tiers", "--tier", "silver", "--book", url, "--as-of", "1997-06-30", "--json").json
    assert len(members["members"]) == counts["silver"] > 0
    assert (members["restricted"], members["objecting"]) == (0, 0)
    assert "accounts" in run("tiers", "--book", url).out
    assert "points_earned" in run("tiers", "--tier", "silver", "--book", url).out


def test_segments_as_csv(url: str, run: Run) -> None:
    printed = run("segments", "--book", url, "--as-of", "1997-09-30", "--csv", *WHO)
    rows = list(csv.reader(io.StringIO(printed.out)))
    assert rows[0] == ["external_id", "frequency", "recency_days", "tenure_days", "monetary_minor"]
    assert [*rows[3][:4], rows[3][4]] == ["00003", "3", "151", "271", "2020"] or rows[3][0] == "00003"
    assert [row[0] for row in rows[1:]] == sorted(row[0] for row in rows[1:])
    assert "with a repeat purchase" in run("segments", "--book", url, *WHO).out


def test_sweep_then_replay(url: str, run: Run) -> None:
    swept = run("sweep", "--until", "1998-06-30T00:00:00Z", "--book", url, "--json").json
    assert swept["decisions"] > 0
    assert "Swept to 1998-06-30T00:00:00Z" in run("sweep", "--until", "1998-06-30T00:00:00Z", "--book", url).out
    certificate = run("replay", "--book", url, "--json")
    assert certificate.status == 0
    assert certificate.json["holds"]
    assert "The certificate holds" in run("replay", "--book", url).out
    back = run("sweep", "--until", "1998-01-01T00:00:00Z", "--book", url)
    assert (back.status, "sweep_goes_back" in back.err) == (2, True)


def test_backtest_with_an_explanation(url: str, run: Run) -> None:
    answer = run("backtest", CANDIDATE, "--book", url, "--explain", "cdnow:00002", "--json", *WHO)
    assert answer.status == 0
    assert answer.json["explain"]["fact"] == "customer.purchase_recorded"
    text = run("backtest", CANDIDATE, "--book", url, "--explain", "cdnow:00002", *WHO).out
    assert "First difference for cdnow:00002" in text
    assert "Behaviour is assumed unchanged." in text
    same = run("backtest", CANDIDATE, "--baseline", CANDIDATE, "--book", url, "--explain", "cdnow:00002", *WHO)
    assert "Nothing differs for cdnow:00002." in same.out


def test_verify_fails_with_status_1_after_tampering(tmp_path: Path, url: str, run: Run) -> None:
    import sqlite3

    assert run("audit", "verify", "--book", url).status == 0
    connection = sqlite3.connect(tmp_path / "shop.book")
    connection.execute("UPDATE stored_events SET state=replace(state, x'00', x'01') WHERE position=20")
    connection.execute("UPDATE stored_events SET topic='customer.changed' WHERE position=20")
    connection.commit()
    connection.close()
    altered = run("audit", "verify", "--book", url, "--log-only", "--json")
    assert altered.status == 1
    assert [one["holds"] for one in altered.json] == [False, True]
    assert "NOT VERIFIED" in run("audit", "verify", "--book", url).out


def test_the_trail_names_fields_and_opens_none(url: str, run: Run) -> None:
    run("show", "customer", "cdnow:00001", "--book", url, *WHO)
    trail = run("audit", "trail", "--subject", "cdnow:00001", "--book", url, *WHO, "--json").json
    actions = [entry["action"] for entry in trail]
    assert actions[0] == "customer.key_created"
    assert "read:profiles.get" in actions
    linked = next(entry for entry in trail if entry["action"] == "customer.identifier_linked")
    assert linked["fields"] == ["external_id"]
    by = run("audit", "trail", "--by", "agent:lin", "--limit", "1", "--book", url, *WHO, "--json").json
    assert [entry["action"] for entry in by] == ["read:audit.trail"]
    assert "Audit trail" in run("audit", "trail", "--subject", "cdnow:00001", "--book", url, *WHO).out


def test_rules_check_names_each_problem_and_its_path(tmp_path: Path, run: Run) -> None:
    assert run("rules", "check", STANDARD).out.startswith("standard@1 is valid")
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(
        STANDARD.read_text(encoding="utf-8")
        .replace("per_minor = 100", "per_minor = 0")
        .replace("[expiry]", "[expiri]"),
        encoding="utf-8",
    )
    checked = run("rules", "check", wrong, "--json")
    assert checked.status == 1
    problems = " ".join(checked.json["problems"])
    assert "earning.0.per_minor" in problems
    assert "expiri" in problems
    assert "per_minor" in run("rules", "check", wrong).out


def test_rules_check_warns_of_what_does_nothing(tmp_path: Path, run: Run) -> None:
    idle = tmp_path / "idle.toml"
    idle.write_text(
        STANDARD.read_text(encoding="utf-8").replace("order.net_minor >= 5000", "order.net_minor >= 0"),
        encoding="utf-8",
    )
    checked = run("rules", "check", idle, "--json")
    assert checked.status == 0
    assert [told.partition(": line")[0] for told in checked.json["warnings"]] == [
        "earning.1.when",
        "earning.1.when: this is always true",
    ]
    told = run("rules", "check", idle).out
    assert f"{idle}: warning: earning.1.when: line 1, column 17: this is always true" in told
    assert "standard@1 is valid" in told
    assert run("rules", "check", STANDARD, "--json").json["warnings"] == []


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("stars", ["never expire", "at most 200 in a year", "merchandise", "counted", "times 17/10", "not multiplied"]),
        ("miles", ["expire all", "18 months", "the best of flight", "with their ages", "down one step", "100,000",
                   "multipliers don't qualify", "first-class", "gold, platinum"]),
        ("retail", ["net + tax, but nothing where", "times 17/20 (card-terms-2024)", "until confirmed, for 30 days at",
                    "campaign autumn-2024, 10 % of accounts left out", "from 2024-10-01", "until 2024-10-31", "800",
                    "5,000 in a day", "points forfeited", "for each whole 100", "pending for 1 day"]),
        ("growth", ["qualifying points only", "points to spend only", "at the end of that year", "as a new lot",
                    "free-shipping, priority-service", "coupon-20", "times 2"]),
    ],
)  # fmt: skip
def test_rules_show_tells_all_parts_of_a_rule_set(
    name: str, parts: list[str], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    shown = run("rules", "show", name).out
    assert [part for part in parts if part not in shown] == []


def test_rules_adopt_a_programme_by_its_name(tmp_path: Path, run: Run) -> None:
    book = f"sqlite:///{tmp_path}/cafe.book"
    assert run("rules", "adopt", "stars", "--book", book, *WHO).out.startswith("stars@1 is adopted")
    assert "stars@1 of programme main, USD, America/New_York" in run("rules", "show", "--book", book).out


def test_rules_are_put_forward_tried_and_adopted_with_their_backtest(tmp_path: Path, url: str, run: Run) -> None:
    candidate = tmp_path / "second.toml"
    candidate.write_text(Path(STANDARD).read_text().replace('version = "1"', 'version = "2"', 1))
    digest = run("rules", "propose", candidate, "--book", url, "--reason", "autumn", *WHO, "--json").json["digest"]
    assert [one["digest"] for one in run("rules", "proposals", "--book", url, "--json").json] == [digest]
    assert "standard@2" in run("rules", "proposals", "--book", url).out
    demand = run("rules", "require-backtest", "--book", url, "--reason", "policy", *WHO)
    assert demand.out.strip() == "Rule sets of main are adopted only with a backtest on record."
    refused = run("rules", "adopt", candidate, "--book", url, *WHO)
    assert (refused.status, "backtest_required" in refused.err) == (2, True)
    assert run("backtest", candidate, "--book", url, "--record", *WHO).status == 0
    [proposed] = run("rules", "proposals", "--book", url, "--json").json
    adopted = run(
        "rules", "adopt", candidate, "--book", url, "--reason", "autumn", "--backtest", proposed["backtest"], *WHO
    )
    assert adopted.out.startswith("standard@2 is adopted from now on.")
    assert run("rules", "proposals", "--book", url, "--json").json == []
    assert run("rules", "require-backtest", "--no", "--book", url, "--reason", "policy", *WHO).status == 0
    third = tmp_path / "third.toml"
    third.write_text(Path(STANDARD).read_text().replace('version = "1"', 'version = "3"', 1))
    again = run("rules", "propose", third, "--book", url, "--reason", "winter", *WHO, "--json").json["digest"]
    assert run("rules", "withdraw", again, "--book", url, "--reason", "too-dear", *WHO).out.strip() == "Withdrawn."
    assert run("rules", "withdraw", again, "--book", url, "--reason", "too-dear", *WHO).status == 2
    assert run("rules", "adopt", third, "--book", url, *WHO).status == 0


def test_rules_show_and_adopt_twice(url: str, run: Run) -> None:
    assert "Tiers by the qualifying points of the last 12 months" in run("rules", "show", STANDARD).out
    assert "standard@1" in run("rules", "show", "--book", url).out
    assert run("rules", "show", STANDARD, "--json").json["name"] == "standard"
    again = run("rules", "adopt", STANDARD, "--book", url, "--from", "1997-01-01T00:00:00Z", *WHO)
    assert again.out.startswith("Nothing new")
    assert len(run("rules", "show", "--book", url, "--json").json) == 1
    assert run("rules", "show").status == 2


def test_projections_catch_up_and_rebuild(url: str, run: Run) -> None:
    caught = run("projections", "catch-up", "--book", url, "--json").json
    assert [one["lag"] for one in run("projections", "status", "--book", url, "--json").json] == [0, 0, 0, 0]
    assert run("projections", "rebuild", "profiles", "--book", url, "--json").json["position"] == caught["position"]
    assert "rebuilt up to position" in run("projections", "rebuild", "--book", url).out
    assert "The read models that are not stopped are at position" in run("projections", "catch-up", "--book", url).out
    assert "lag" in run("projections", "status", "--book", url).out
    assert run("projections", "rebuild", "nothing", "--book", url).status == 2


def test_the_wrapping_key_is_rotated_and_that_is_on_record(tmp_path: Path, url: str, run: Run) -> None:
    key = tmp_path / "shop.book.wrapping-key"
    before = key.read_bytes()
    refused = run("keys", "rotate", "--book", url)
    assert refused.status == 2
    assert key.read_bytes() == before
    rotated = run("keys", "rotate", "--book", url, *WHO, "--json").json
    assert rotated["old"] != rotated["new"]
    assert rotated["keys"] > 0
    assert key.read_bytes() != before
    told = run("keys", "rotate", "--book", url, *WHO)
    assert told.status == 0
    assert f"in the place of {rotated['new']}" in told.out.replace("\n", " ")
    trail = run("audit", "trail", "--book", url, *WHO, "--json").out
    assert trail.count("book.wrapping_key_rotated") == 2
    elsewhere = run("keys", "rotate", "--book", f"sqlite:///{tmp_path}/none.book", *WHO)
    assert elsewhere.status != 0
    assert not (tmp_path / "none.book").exists()


def test_a_book_that_is_not_there_is_not_made_by_looking(tmp_path: Path, run: Run) -> None:
    missing = run("audit", "verify", "--book", f"sqlite:///{tmp_path}/none.book")
    assert missing.status == 2
    assert "There is no book at" in missing.err
    assert list(tmp_path.iterdir()) == []
    assert run("tiers", "--book", "nonsense:").status == 2


def test_the_book_comes_from_the_environment(url: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYBOOK_URL", url)
    monkeypatch.setenv("TALLYBOOK_ACTOR", "agent:env")
    monkeypatch.setenv("TALLYBOOK_PURPOSE", "support")
    assert run("show", "customer", "cdnow:00001").status == 0


def test_without_the_extra_the_command_says_what_to_install() -> None:
    script = (
        "import sys; sys.modules['typer'] = None; sys.argv = ['tallybook'];from tallybook.console import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'tallybook[cli]'" in done.stderr


def test_a_demo_leaves_a_strangers_book_alone(tmp_path: Path, run: Run) -> None:
    for name in ("shop.book", "shop.book.keys", "shop.book.signing-key", "shop.book-notes.txt"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text("mine")
        refused = run("demo", folder)
        assert refused.status == 2
        assert (folder / name).read_text() == "mine"
    with tallybook.open(f"sqlite:///{tmp_path}/own.book") as own:
        origin = own.origin
    marked = tmp_path / "marked"
    marked.mkdir()
    (marked / ".tallybook-demo").write_text("another was made by `tallybook demo`.")
    for suffix in ("", ".keys", ".wrapping-key", ".signing-key", ".reads"):
        (tmp_path / f"own.book{suffix}").rename(marked / f"shop.book{suffix}")
    assert run("demo", marked).status == 2
    with tallybook.open(f"sqlite:///{marked}/shop.book", create=False) as own:
        assert own.origin == origin


def test_follow_prints_a_line_for_each_event_and_nothing_personal(url: str, run: Run) -> None:
    everything = run("follow", "--book", url, "--no-wait", "--json")
    assert (everything.status, everything.err) == (0, "")
    events = [json.loads(line) for line in everything.out.splitlines()]
    assert [event["position"] for event in events] == list(range(1, len(events) + 1))
    bought = [event for event in events if event["name"] == "customer.purchase_recorded"]
    assert len(bought) == 300
    assert set(bought[0]) == {
        "position", "name", "stream", "subject", "effective_at", "recorded_at", "actor", "fields",
    }  # fmt: skip
    assert bought[0]["actor"] == "job:import"
    assert bought[0]["effective_at"].startswith("1997-")
    assert bought[0]["fields"]["currency"] == "USD"
    assert not any("external_id" in event["fields"] for event in events)  # sealed
    last = run(
        "follow", "--book", url, "--after", bought[-3]["position"], "--name", "customer.purchase_recorded",
        "--name", "customer.registered", "--no-wait",
    )  # fmt: skip
    assert [int(line.split()[0]) for line in last.out.splitlines()] == [
        event["position"]
        for event in events
        if event["name"] in ("customer.purchase_recorded", "customer.registered")
        and event["position"] > bought[-3]["position"]
    ]
    assert last.out.splitlines()[-1].split()[:4] == [
        str(bought[-1]["position"]), bought[-1]["effective_at"], "customer.purchase_recorded", bought[-1]["subject"],
    ]  # fmt: skip


def test_follow_refuses_a_name_that_no_event_has(url: str, run: Run) -> None:
    refused = run("follow", "--book", url, "--name", "customer.unheard_of", "--json")
    assert refused.status == 2
    assert json.loads(refused.err)["error"]["code"] == "invalid_argument"
    assert run("follow", "--book", url, "--after", "-1").status == 2


def test_follow_waits_for_what_is_to_come_until_it_is_interrupted(url: str) -> None:
    # Where the tests run in the background, a shell may have set SIGINT to be ignored, and a child inherits that.
    heeded = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    script = heeded + "from tallybook.console import main; main()"
    with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
        head = book.position()
        running = subprocess.Popen(
            [sys.executable, "-c", script, "follow", "--book", url, "--after", str(head), "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert running.stdout is not None
            for _ in range(2):
                book.customers.register(name="Ada")
                assert json.loads(running.stdout.readline())["name"] == "customer.key_created"
                assert json.loads(running.stdout.readline())["name"] == "customer.registered"
            running.send_signal(signal.SIGINT)
            out, err = running.communicate(timeout=60)
        finally:
            running.kill()
    assert (running.returncode, out) == (130, "")
    assert "Traceback" not in err


def test_follow_ends_quietly_when_its_reader_has_seen_enough(url: str) -> None:
    script = "from tallybook.console import main; main()"
    running = subprocess.Popen(
        [sys.executable, "-c", script, "follow", "--book", url], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert running.stdout is not None
        assert running.stdout.readline().startswith(b"1 ")
        running.stdout.close()
        with tallybook.open(url) as book, book.acting("agent:lin", purpose="support"):
            while running.poll() is None:
                book.customers.register(name="Ada")
        assert running.stderr is not None
        assert running.stderr.read() == b""
    finally:
        running.kill()


def test_a_demo_replaces_what_an_earlier_one_left_and_nothing_else(tmp_path: Path) -> None:
    class EnoughError(Exception):
        pass

    def stop(line: str) -> None:
        if line.startswith("Adopted"):
            raise EnoughError

    origins: list[str] = []
    for _ in range(2):
        with pytest.raises(EnoughError):
            run_demo(tmp_path, stop)
        with tallybook.open(f"sqlite:///{tmp_path}/shop.book", create=False) as book:
            origins.append(book.origin)
        for name in ("elsewhere", "pack"):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / "of the demo before").touch()
        (tmp_path / "shop.book-notes.txt").write_text("mine")
    with pytest.raises(EnoughError):
        run_demo(tmp_path, stop)
    assert len(set(origins)) == 2
    assert not (tmp_path / "elsewhere").exists()
    assert not (tmp_path / "pack").exists()
    assert (tmp_path / "shop.book-notes.txt").read_text() == "mine"

    for name in ("elsewhere", "pack"):
        (tmp_path / "other" / name).mkdir(parents=True)
        with pytest.raises(tallybook.BookError, match=f"{name} is there, and no demo made it"):
            run_demo(tmp_path / "other", stop)
        (tmp_path / "other" / name).rmdir()


def test_the_command_runs_as_a_module_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tallybook", "--help"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "doctor" in done.stdout


@pytest.mark.parametrize("module", ["typer", "rich"])
def test_an_interrupt_while_the_command_is_still_loading_is_quiet(tmp_path: Path, module: str) -> None:
    (tmp_path / f"{module}.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "sys.path.insert(0, sys.argv[1]); from tallybook.console import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_certificate_is_signed_and_checked(url: str, run: Run, tmp_path: Path) -> None:
    kept = tmp_path / "shop.certificate"
    assert str(kept) in run("replay", "--book", url, "--sign", kept).out
    assert run("audit", "certificate", kept, "--book", url).out.endswith("The certificate holds\n")
    key = run("audit", "vkey", "--book", url).out.strip()
    told = run("audit", "certificate", kept, "--vkey", key, "--book", url, "--json")
    assert told.json["holds"] is True
    assert told.json["executor"] == "reference"
    kept.write_text(kept.read_text("utf-8").replace('"holds":true', '"holds":false'), "utf-8")
    refused = run("audit", "certificate", kept, "--book", url)
    assert (refused.status, "altered" in refused.err) == (2, True)
    there = run("replay", "--book", url, "--sign", kept)
    assert (there.status, "already" in there.err) == (2, True)
