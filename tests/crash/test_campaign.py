"""`make crash`, small: nothing lost with what Tallybook does, and losses found where a mistake is planted.

`TALLYBOOK_CRASH_SEED` gives another seed than 1. What is found is printed with the command to have it again.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from uuid import UUID

import pytest
from tests.crash import workload
from tests.crash.checks import Finding, check
from tests.crash.cuts import drop_too_early, key_files
from tests.crash.disk import Content, Disk, failure
from tests.crash.kills import ACTIVITIES
from tests.crash.ledger import Deed, Ledger, Outcome

import tallybook
from tallybook.projections.trail import Trail

ROOT = Path(__file__).parents[2]
KILLS, CUTS = 80, 100


def campaign(folder: Path, *options: str) -> tuple[int, str]:
    """Exit code and output of a campaign in a process of its own: it forks, and patches the `sqlite3` module."""
    seed = os.environ.get("TALLYBOOK_CRASH_SEED") or "1"
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash", "--seed", seed, "--folder", str(folder), *options],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    print(f"TALLYBOOK_CRASH_SEED={seed}\n{done.stdout}{done.stderr}")
    return done.returncode, done.stdout


def figures(output: str, kind: str) -> dict[str, int]:
    """crashes, acknowledged, lost, doubled, broken, ahead."""
    line = re.search(
        rf"(?P<crashes>\d+) {kind}: (?P<acknowledged>\d+) commands acknowledged, "
        r"(?P<lost>\d+) lost, (?P<doubled>\d+) doubled, (?P<broken>\d+) broken, (?P<ahead>\d+) ahead",
        output,
    )
    assert line is not None, output
    return {name: int(value) for name, value in line.groupdict().items()}


@pytest.mark.slow
def test_processes_that_are_killed_at_random_moments_lose_and_double_nothing(tmp_path: Path) -> None:
    code, output = campaign(tmp_path, "--kills", str(KILLS))
    found = figures(output, "kills")
    assert code == 0, output
    assert found["crashes"] >= KILLS
    assert found["acknowledged"] > KILLS, "hardly anything was acknowledged: nothing could be lost"
    assert found["lost"] == found["doubled"] == found["broken"] == found["ahead"] == 0
    for activity in ACTIVITIES:
        assert f" {activity} " in output, f"nothing was killed at: {activity}"


@pytest.mark.slow
def test_power_cuts_at_random_writes_lose_and_double_nothing(tmp_path: Path) -> None:
    code, output = campaign(tmp_path, "--cuts", str(CUTS))
    found = figures(output, "cuts")
    assert code == 0, output
    assert found["crashes"] >= CUTS
    assert found["acknowledged"] > 5 * CUTS
    assert found["lost"] == found["doubled"] == found["broken"] == found["ahead"] == 0
    for part in ("write shop.book-wal", "write shop.book ", "shop.book.keys", "shop.book.reads", "an import"):
        assert part in output, f"no cut fell on {part}"


def test_the_same_campaign_finds_losses_where_commits_are_not_synced(tmp_path: Path) -> None:
    code, output = campaign(tmp_path, "--cuts", "100", "--synchronous", "NORMAL", "--until", "lost")
    assert code == 1
    assert figures(output, "cuts")["lost"] > 0
    assert "--synchronous NORMAL" in output


@pytest.mark.parametrize(
    ("mistake", "kind", "found"),
    [
        ("commits", "kills", "lost"),
        ("receipts", "kills", "doubled"),
        ("frontiers", "kills", "broken"),
        ("positions", "kills", "broken"),
        ("keys", "cuts", "broken"),  # the key of what was acknowledged is not there
        ("erasures", "kills", "broken"),
    ],
)
def test_the_same_campaign_finds_a_mistake_that_is_planted(tmp_path: Path, mistake: str, kind: str, found: str) -> None:
    code, output = campaign(tmp_path, f"--{kind}", "200", "--mistake", mistake, "--until", found)
    assert code == 1
    assert figures(output, kind)[found] > 0, output
    # The printed command has it again.
    again = re.search(rf"again: python -m tests.crash --seed \d+ (--only {kind}:\d+ --mistake {mistake})", output)
    assert again is not None, output


def test_a_cut_is_had_again_from_its_seed(tmp_path: Path) -> None:
    _, output = campaign(tmp_path, "--cuts", "60", "--mistake", "keys")
    found = re.search(r"^((cuts:\d+), after \d+: \w+: .{20})", output, re.MULTILINE)
    assert found is not None
    _, again = campaign(tmp_path, "--only", found[2], "--mistake", "keys")
    assert found[1] in again, again


def test_a_power_cut_at_any_write_while_a_book_is_made_leaves_what_can_be_made(tmp_path: Path) -> None:
    cut = 0
    for at in itertools.count(1):
        folder = tmp_path / str(at)
        folder.mkdir()
        disk = Disk(folder, random.Random(at))

        def fails(kind: str, number: int, disk: Disk = disk, at: int = at) -> None:
            if number == at:
                disk.power_off()
                raise failure(kind)

        disk.fails = fails
        with disk.in_use(), suppress(Exception), tallybook.open(f"sqlite:///{folder / 'shop.book'}"):
            pass
        if not disk.off:
            break
        for found in range(2):
            again = folder / str(found)
            again.mkdir()
            for name, data in (disk.after_cut() | key_files(folder)).items():
                (again / name).touch(mode=0o600)
                (again / name).write_bytes(data)
            url = f"sqlite:///{again / 'shop.book'}"
            ledger = Ledger()
            with tallybook.open(url) as book:
                workload.perform(book, workload.next_deed(random.Random(at), ledger), ledger.begin, ledger.end)
            assert check(url, ledger, random.Random(1), thorough=True) == [], f"cut at operation {at}: {disk.last}"
            cut += 1
    assert cut > 50


def cuts_at_any_write(folder: Path, verb: str) -> Iterator[tuple[str, list[Finding]]]:
    """What a cut at each write of one command leaves, one after the other: where it fell, and what is found."""
    made = folder / "made"
    made.mkdir()
    url, ledger, chance = f"sqlite:///{made / 'shop.book'}", Ledger(), random.Random(verb)
    with tallybook.open(url) as book:
        workload.prepare(book)
        for _ in range(8):
            deed = workload.next_deed(chance, ledger)
            workload.perform(book, deed, ledger.begin, ledger.end)
    arguments = {"customer": ledger.customers[-1], "reason": "gdpr-17"} if verb == "erase" else {}
    deed = Deed(UUID(int=1), verb, arguments)
    for at in itertools.count(1):
        place = folder / f"{at}"
        shutil.copytree(made, place)
        disk, told, then = Disk(place, random.Random(at)), deepcopy(ledger), itertools.count(1)

        def fails(kind: str, number: int, disk: Disk = disk, at: int = at, then: Iterator[int] = then) -> None:
            if next(then) == at:
                disk.power_off()
                raise failure(kind)

        with disk.in_use(), suppress(Exception), tallybook.open(f"sqlite:///{place / 'shop.book'}") as book:
            disk.fails = fails
            workload.perform(book, deed, told.begin, told.end)
        if not disk.off:
            return
        again = folder / f"{at}-again"
        again.mkdir()
        for name, data in (disk.after_cut() | key_files(place)).items():
            (again / name).touch(mode=0o600)
            (again / name).write_bytes(data)
        yield disk.last, check(f"sqlite:///{again / 'shop.book'}", told, random.Random(1), thorough=False)


@pytest.mark.parametrize("verb", ["erase", "rotate"])
def test_a_power_cut_at_any_write_of_an_erasure_or_a_rotation_does_it_or_not(tmp_path: Path, verb: str) -> None:
    fell = [
        where for where, found in cuts_at_any_write(tmp_path, verb) if found == [] or pytest.fail(f"{where}: {found}")
    ]
    assert {"write shop.book.keys", "write shop.book-wal"} <= set(fell)


def test_a_rotation_that_drops_the_old_key_too_early_is_found(tmp_path: Path) -> None:
    with drop_too_early():
        found = [one.kind for _, findings in cuts_at_any_write(tmp_path, "rotate") for one in findings]
    assert "broken" in found


# ── the checks themselves ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def worked(tmp_path: Path) -> tuple[str, Ledger]:
    """A book with some commands, and its ledger."""
    url, ledger, chance = f"sqlite:///{tmp_path / 'shop.book'}", Ledger(), random.Random(5)
    with tallybook.open(url) as book:
        workload.prepare(book)
        for _ in range(40):
            deed = workload.next_deed(chance, ledger)
            workload.perform(book, deed, ledger.begin, ledger.end)
            if deed.verb == "register":
                workload.enrol(book, ledger.customers[-1])
    assert check(url, ledger, chance, thorough=True) == []
    return url, ledger


def kinds(url: str, ledger: Ledger) -> set[str]:
    return {one.kind for one in check(url, ledger, random.Random(1), thorough=True)}


def test_a_command_that_is_not_in_the_log_is_found(worked: tuple[str, Ledger]) -> None:
    url, ledger = worked
    for verb in ("purchase", "look"):
        missing = Deed(workload.next_deed(random.Random(verb), Ledger()).token, verb, {})
        more = Ledger({**ledger.begun, missing.token: missing}, {**ledger.outcomes, missing.token: Outcome()})
        assert kinds(url, more) == {"lost"}


def test_a_command_that_was_done_twice_is_found(worked: tuple[str, Ledger]) -> None:
    url, ledger = worked
    deed = next(
        one
        for one in ledger.begun.values()
        if one.verb == "purchase" and "order_id" not in one.arguments and one.arguments["customer"] not in ledger.erased
    )
    with tallybook.open(url) as book:
        Deed(deed.token, deed.verb, deed.arguments).run(book)
    assert kinds(url, ledger) == {"doubled"}


def test_a_command_that_nobody_gave_is_found(worked: tuple[str, Ledger]) -> None:
    url, ledger = worked
    with tallybook.open(url) as book:
        workload.next_deed(random.Random(9), Ledger()).run(book)
    assert kinds(url, ledger) == {"broken"}


def test_a_refused_command_that_is_in_the_log_is_found(worked: tuple[str, Ledger]) -> None:
    url, ledger = worked
    token = next(
        token for token, deed in ledger.begun.items() if deed.verb == "open" and ledger.outcomes[token].refused is None
    )
    ledger.outcomes[token] = Outcome(refused="conflict")
    assert kinds(url, ledger) == {"broken"}


def test_a_row_of_a_read_model_that_differs_is_found(worked: tuple[str, Ledger]) -> None:
    url, ledger = worked
    with tallybook.open(url) as book:
        book.projections.catch_up()
        core = book._core
        [(table,)] = core.storage.models.rows(
            "SELECT name FROM sqlite_master WHERE type='table' AND name LIKE ? ESCAPE '!'", [f"{Trail.table.name}!_!_%"]
        )
        with core.storage.models.session(write=True) as session:
            session.run(f"DELETE FROM {table} WHERE position=2")
    assert kinds(url, ledger) == {"broken"}


def test_a_customer_without_a_key_is_found(worked: tuple[str, Ledger]) -> None:
    url, ledger = worked
    with (
        tallybook.open(url) as book,
        book._core.storage.keys.database.session(write=True) as keys,  # type: ignore[attr-defined]  # a file's
    ):
        keys.run("DELETE FROM data_keys WHERE subject=?", [ledger.customers[-1].bytes])
    assert kinds(url, ledger) == {"lost"}


# ── the disk itself ───────────────────────────────────────────────────────────────────────────────────────────────


def test_what_was_synced_is_there_whatever_was_cut() -> None:
    content = Content(b"a" * 2000)
    content.pending += [(0, b"b" * 1000), (1500, None)]
    content.sync()
    content.pending += [(0, b"c" * 1500), (1500, b"d" * 3000)]
    found = {content.after_cut(random.Random(seed)) for seed in range(300)}
    assert all(set(one[:1000]) <= set(b"bc") and set(one[1000:1500]) <= set(b"ac") for one in found)
    assert {1500, 4500} <= {len(one) for one in found}
    assert b"b" * 1000 + b"a" * 500 in found, "nothing of it is a possibility"
    assert b"c" * 1500 + b"d" * 3000 in found, "all of it is a possibility"
    torn = [one for one in found if set(one[:512]) == set(b"b") and set(one[512:1024]) == set(b"c")]
    assert torn, "a write is torn at its sectors"


def test_a_file_that_was_made_or_deleted_is_so_for_sure_once_its_folder_is_synced(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"old")
    disk = Disk(tmp_path, random.Random(1))
    (tmp_path / "new").write_bytes(b"")
    disk.content("new")
    disk.now.pop("old")
    disk.entries["old"].append(None)
    found = {tuple(sorted(disk.after_cut())) for _ in range(50)}
    assert found == {(), ("new",), ("old",), ("new", "old")}
    disk.sync_folder()
    assert {tuple(disk.after_cut()) for _ in range(20)} == {("new",)}
    disk.unregister()
