"""The documents are true: their Python blocks run and print what they say, their commands answer as shown."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import tallybook
from tallybook import cli
from tallybook.demo import run_demo
from tallybook.projections.read_models import Progress

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MASKS = [
    (r"\btallybook/[0-9a-f]{32}\b", "ORIGIN"),
    (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "ID"),
    (r"\b[0-9a-f]{64}\b", "HASH"),
    (r"\b[0-9a-f]{16}…", "HASH…"),
    (r"\d+\.\d s\b", "N s"),
    (r"[\d,]+ events/s", "N events/s"),
    (r"20[2-9]\d-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z?", "NOW"),
    (r"[ ]+$", ""),
    (r"[━─]+", "─"),
    (r" +", " "),
]


def masked(text: str) -> str:
    """Without what differs from run to run: times, rates, ids, hashes, and the width of columns."""
    for pattern, name in MASKS:
        text = re.sub(pattern, name, text, flags=re.MULTILINE)
    return text.strip()


def blocks(page: Path) -> Iterator[tuple[str, str, str | None]]:
    """Language and text of each block, with the text block that follows it as its output."""
    found = [(match.group(1), match.group(2)) for match in BLOCK.finditer(page.read_text(encoding="utf-8"))]
    for index, (language, text) in enumerate(found):
        following = found[index + 1] if index + 1 < len(found) else ("", "")
        yield language, text, following[1] if following[0] == "text" else None


class Demo(NamedTuple):
    folder: Path
    lines: list[str]
    figures: dict[str, Any]


@pytest.fixture(scope="module")
def the_demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """`tallybook demo --json`, once; what it would have said without `--json`, too."""
    folder = tmp_path_factory.mktemp("docs")
    lines: list[str] = []
    printed = io.StringIO()

    def heard(directory: Path, _say: object, progress: Progress | None) -> dict[str, Any]:
        return run_demo(directory, lines.append, progress)

    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(cli, "run_demo", heard)
        patch.setattr(sys, "argv", ["tallybook", "demo", "--json"])
        with pytest.raises(SystemExit) as stop:
            cli.run()
    assert not stop.value.code
    return Demo(folder, lines, json.loads(printed.getvalue()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run_and_print_what_the_page_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("standard.toml", "candidate.toml"):
        (tmp_path / name).write_text((files("tallybook") / "data" / name).read_text(encoding="utf-8"), encoding="utf-8")
    namespace: dict[str, object] = {}
    for language, text, expected in blocks(page):
        if language != "python":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(text, f"{page.name}", "exec"), namespace)
        if expected is not None:
            assert masked(printed.getvalue()) == masked(expected)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_rule_set_blocks_are_valid(page: Path, tmp_path: Path) -> None:
    from tallybook.adapters.rule_files import load_rule_set

    for number, (language, text, _) in enumerate(blocks(page)):
        if language == "toml" and "[[earning]]" in text:
            file = tmp_path / f"{number}.toml"
            file.write_text(text, encoding="utf-8")
            assert load_rule_set(file).earning


def test_the_readme_opens_with_the_two_commands() -> None:
    first = next(blocks(ROOT / "README.md"))
    assert first[1].splitlines()[0].startswith("make demo")
    assert first[1].splitlines()[1].startswith("make test")


def test_the_demo_runs_the_whole_main_job(the_demo: Demo, tmp_path: Path) -> None:
    figures = the_demo.figures
    assert (figures["customers"], figures["purchases"]) == (23_570, 69_659)
    assert figures["verified"] is True
    assert figures["certificate"]["holds"] is True
    assert figures["personal_values_in_the_clear"] == 0
    assert figures["segments"] == {"as_of": "1997-09-30", "customers": 23_570, "with_repeat_purchase": 9_451}
    assert set(figures["tiers"]) == {"1997-06-30", "1997-12-31", "1998-06-30"}
    assert all(sum(counts.values()) == 23_570 for counts in figures["tiers"].values())
    assert figures["story"]["refused"] is True
    assert figures["story"]["points"] == 40
    evidence = figures["evidence"]
    assert evidence["verified_by_a_stranger"] is True
    assert (evidence["name"], evidence["points"]) == ("(erased)", 40)
    assert evidence["kept"] < evidence["erased_at"] <= figures["events"]
    assert evidence["lookups"] == 1
    assert {"import", "project", "verify", "certificate", "backtest", "total"} <= set(figures["seconds"])
    assert figures["backtest"]["moved_up"] > 0 < figures["backtest"]["moved_down"]
    copy = shutil.copytree(the_demo.folder / "demo-book", tmp_path / "copy")  # opening a book is on record
    with tallybook.open(f"sqlite:///{copy / 'shop.book'}", create=False) as book:
        members = book.tiers.counts()
    # Rows are members by the tier that was recorded for them, columns by that of the candidate.
    assert {tier: sum(row.values()) for tier, row in figures["backtest"]["matrix"].items()} == members
    assert sum(members.values()) == 23_571


def test_the_commands_of_the_readme_answer_as_shown(
    the_demo: Demo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(the_demo.folder)
    ran = 0
    for language, text, _ in blocks(ROOT / "README.md"):
        if language != "console":
            continue
        for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE):
            if command == "make demo":
                printed = "\n".join(the_demo.lines)
            elif command.startswith("python "):
                words = [sys.executable, *shlex.split(command)[1:]]
                printed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
            else:
                monkeypatch.setattr(sys, "argv", shlex.split(command))
                monkeypatch.setenv("COLUMNS", "100")
                with pytest.raises(SystemExit) as stop:
                    cli.run()
                assert not stop.value.code, command
                printed = capsys.readouterr().out
            ending = shown.rstrip().endswith("…")
            wanted = masked(shown).removesuffix("…").rstrip()
            answered = masked(printed)
            assert answered.startswith(wanted) if ending else answered == wanted, f"{command}\n{printed}"
            ran += 1
    assert ran >= 5


TESTS = {
    name
    for file in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_a_page_names_is_there(page: Path) -> None:
    named = re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8"))
    assert [name for name in named if name not in TESTS] == []


def wrong_in(command: str) -> str | None:
    """What no command of the command line, or no option of it, is called; None: all is."""
    node: Any = cli.the_line()
    words = shlex.split(command.replace("…", ""), comments=True)[1:]
    while words and hasattr(node, "commands"):
        found = node.commands.get(words[0])
        if found is None:
            break
        node, words = found, words[1:]
    if hasattr(node, "commands") and words and not words[0].startswith("-") and words[0].islower():
        return words[0]
    options = {name for one in node.params for name in (*one.opts, *one.secondary_opts)} | {"--help"}
    return next((word for word in words if word.startswith("--") and word.split("=")[0] not in options), None)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_page_names_is_there(page: Path) -> None:
    shown = "\n".join(text for _, text, _ in blocks(page)).replace("\\\n", " ")
    named = re.findall(r"^(?:\$ )?(tallybook(?: .*)?)$", shown, re.MULTILINE)
    text = page.read_text(encoding="utf-8")
    named += re.findall(r"(?<!`)`(tallybook [^`]+)`(?!`)", text)
    assert [(command, wrong) for command in named if (wrong := wrong_in(command))] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
