"""Install Tallybook in every way, in empty environments, and use it: `python -m tools.ways [PYTHON …]`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
SMOKE = """
import tallybook
with tallybook.open("memory:") as book, book.acting("agent:lin", purpose="support"):
    book.rules.adopt("standard", effective_at="2020-01-01T00:00:00Z")
    ada = book.customers.register(name="Ada")
    book.loyalty.enrol(ada)
    book.customers.record_purchase(ada, [{"sku": "a", "quantity": 1, "net_minor": 1000}])
    assert book.profiles.get(ada)["name"] == "Ada" and book.loyalty.balance(ada) == 10
    assert book.replay().holds and all(check.holds for check in book.audit.verify())
"""


def run(*words: object, cwd: Path) -> str:
    """Run a command; its output. What fails is shown whole."""
    done = subprocess.run(  # noqa: S603 - commands of this file
        list(map(str, words)), cwd=cwd, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def main(pythons: list[str]) -> None:
    """Wheel, sdist and editable by pip, wheel by uv; the wheel without the extra too, and the demo from a wheel."""
    scratch = Path(tempfile.mkdtemp())
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", scratch / "dist", ROOT, cwd=scratch)
    wheel, sdist = next((scratch / "dist").glob("*.whl")), next((scratch / "dist").glob("*.tar.gz"))
    uv = Path(sys.executable).with_name("uv")
    for python in pythons:
        version = run(python, "-c", "import platform; print(platform.python_version())", cwd=scratch).strip()
        for way in ("pip wheel", "pip sdist", "pip editable", "uv wheel", "pip wheel without extra"):
            home = scratch / version / way.replace(" ", "-")
            home.mkdir(parents=True)
            venv = home / "venv"
            run(python, "-m", "venv", venv, cwd=home)
            inside = venv / "bin" / "python"
            extra = "" if "without" in way else "[cli]"
            what = {"sdist": f"{sdist}{extra}", "editable": f"{ROOT}{extra}"}.get(way.split()[1], f"{wheel}{extra}")
            if way.startswith("uv"):
                run(uv, "pip", "install", "--quiet", "--python", inside, what, cwd=home)
            else:
                options = ["--editable"] if "editable" in way else []
                run(inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *options, what, cwd=home)
            run(inside, "-c", SMOKE, cwd=home)
            if extra:
                run(venv / "bin" / "tallybook", "rules", "show", "standard", cwd=home)
            else:
                missing = subprocess.run(  # noqa: S603 - the command that was just installed
                    [venv / "bin" / "tallybook"], capture_output=True, text=True, check=False
                )
                if missing.returncode != 2 or "pip install 'tallybook[cli]'" not in missing.stderr:
                    sys.exit(f"without the extra: {missing}")
            note = ""
            if way == "pip wheel":
                note = run(venv / "bin" / "tallybook", "demo", cwd=home).split("All in ")[1].split(". Try")[0]
            print(f"{version:8} {way:24} works{'; the demo took ' + note if note else ''}", flush=True)
            shutil.rmtree(home)
    shutil.rmtree(scratch)


if __name__ == "__main__":
    main(sys.argv[1:] or [sys.executable])
