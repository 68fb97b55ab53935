"""Put real output into the README's blocks: `python -m tools.readme`. Runs the demo in a scratch folder."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def main() -> None:
    """Run what the blocks say, and write down what it printed."""
    text = README.read_text(encoding="utf-8")
    scratch = Path(tempfile.mkdtemp())
    environment = {**os.environ, "COLUMNS": "100", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def answer(match: re.Match[str]) -> str:
        shown = []
        for command in re.findall(r"^\$ (.*)$", match.group(1), re.MULTILINE):
            words = ["tallybook", "demo"] if command == "make demo" else shlex.split(command)
            done = subprocess.run(  # noqa: S603 - commands of our own README
                words, cwd=scratch, env=environment, capture_output=True, text=True, check=True
            )
            shown.append(f"$ {command}\n{done.stdout.rstrip()}\n")
        return "```console\n" + "".join(shown) + "```"

    text = re.sub(r"```console\n(.*?)```", answer, text, flags=re.DOTALL)

    names: dict[str, object] = {}  # one block goes on where the one before ended

    def printed(match: re.Match[str]) -> str:
        out = io.StringIO()
        with contextlib.chdir(scratch), contextlib.redirect_stdout(out):
            exec(compile(match.group(1), "README.md", "exec"), names)  # noqa: S102 - our own README
        return f"```python\n{match.group(1)}```\n\n```text\n{out.getvalue().rstrip()}\n```"

    text = re.sub(r"```python\n(.*?)```\n\n```text\n.*?```", printed, text, flags=re.DOTALL)
    README.write_text(text, encoding="utf-8")
    shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
