"""The house: layout, imports, the built wheel, and documents that are true."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
from tools.reference import DESKS, DOCS, PAGES, public

from tallybook.domain.errors import REFUSALS

from .postgres import UnmarkedTest, run_sql, server_url, tcp_server_url

ROOT = Path(__file__).parent.parent
FOLDERS = ("domain", "projections", "adapters")
CODE = sorted(
    path
    for folder in (*FOLDERS, "src/tallybook", "tests", "benchmarks", "tools")
    for path in (ROOT / folder).rglob("*.py")
    if not any(part.is_symlink() for part in path.parents)
)


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_imports_a_folder_of_the_root_by_its_bare_name(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom) and node.level == 0
            else []
        )
        bare = [name for name in names if name.split(".")[0] in FOLDERS]
        assert not bare, f"{path}:{getattr(node, 'lineno', 0)} imports {bare}: every class would exist twice"


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_three_folders_are_linked_into_the_package(folder: str) -> None:
    link = ROOT / "src" / "tallybook" / folder
    assert link.is_symlink()
    assert os.readlink(link) == f"../../{folder}"


def test_no_room_is_called_by_a_name_that_says_nothing() -> None:
    assert [
        path for path in CODE if path.stem in ("utils", "util", "helpers", "common", "misc", "manager", "base")
    ] == []


def test_every_silenced_check_has_its_reason() -> None:
    silenced = re.compile(r"#\s*(type: ignore|noqa|pyright: ignore)(\[[^\]]*\]|:\s*[A-Z0-9, ]+)?(.*)$")
    bare = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in CODE
        if path.name != "test_house.py"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if (match := silenced.search(line)) and len(match.group(3).strip(" -#")) < 4
    ]
    assert bare == []


def test_a_test_that_is_not_marked_server_gets_none_nor_does_a_process_that_it_starts() -> None:
    # So `-m server`, by which .ci/run selects what it runs on every Python, leaves nothing out that needs a server.
    with pytest.raises(UnmarkedTest, match="test_a_test_that_is_not_marked_server"):
        server_url()
    with pytest.raises(UnmarkedTest), tcp_server_url():
        pass
    keeper = subprocess.run(
        [sys.executable, ROOT / "tests" / "postgres.py"], input="", capture_output=True, text=True, check=False
    )
    assert keeper.returncode == 1
    assert "UnmarkedTest" in keeper.stderr


@pytest.mark.server
def test_one_that_is_marked_gets_one() -> None:
    assert run_sql("SELECT 1") == [(1,)]


def test_ci_runs_what_is_marked_on_every_python_that_is_promised() -> None:
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert 'TESTS="-m server"' in run
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    promised = [one.rpartition(" ")[2] for one in project["classifiers"] if "Python :: 3." in one]
    assert f"for version in {' '.join(promised)};" in run


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)],
        check=True,
        capture_output=True,
    )
    return next(out.glob("*.whl"))


def test_a_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"tallybook", "tallybook-0.1.0.dist-info"}
    assert len(names) == len(set(names))
    for wanted in (
        "tallybook/py.typed",
        "tallybook/data/cdnow_master.txt.xz",
        "tallybook/data/standard.toml",
        "tallybook/data/NOTICE.md",
        "tallybook/domain/loyalty.py",
        "tallybook/projections/replay.py",
        "tallybook/adapters/log.py",
        "tallybook/testing/conformance.py",
        "tallybook/adapters/sqlite.py",
    ):
        assert wanted in names
    tracked = {path.name for folder in FOLDERS for path in (ROOT / folder).glob("*.py")}
    assert tracked <= {name.split("/")[-1] for name in names}


def test_a_wheel_works_by_itself(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    script = (
        f"import sys; sys.path[:0] = [{str(site)!r}, {sysconfig.get_path('purelib')!r}]\n"
        "import tallybook\n"
        f"assert tallybook.__file__.startswith({str(site)!r}), tallybook.__file__\n"
        "with tallybook.open('memory:') as book, book.acting('agent:lin', purpose='support'):\n"
        "    ada = book.customers.register(name='Ada')\n"
        "    print(book.profiles.get(ada)['name'])\n"
    )
    # -S: without site, the development tree that is installed for the tests is not on the path.
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout == "Ada\n", done.stderr


@pytest.mark.parametrize("name", PAGES)
def test_reference_pages_say_what_the_code_says(name: str) -> None:
    written = (DOCS / name).read_text(encoding="utf-8")
    assert written == PAGES[name](), f"docs/{name} is out of date: python -m tools.reference"


def test_every_public_method_has_a_docstring() -> None:
    missing = [
        f"{path}.{name}"
        for path, desk in DESKS.items()
        for name, member in public(desk)
        if not (member.__doc__ or "").strip()
    ]
    assert missing == []


@pytest.mark.parametrize("code", REFUSALS)
def test_every_refusal_is_raised_by_the_code_and_expected_by_a_test(code: str) -> None:
    source = [path for path in CODE if "tests" not in path.parts and path.name != "errors.py"]
    tests = [path for path in CODE if "tests" in path.parts and path.name != "test_house.py"]
    assert any(f'"{code}"' in path.read_text(encoding="utf-8") for path in source), f"nothing raises {code}"
    assert any(f'"{code}"' in path.read_text(encoding="utf-8") for path in tests), f"no test expects {code}"
