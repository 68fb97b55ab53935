"""Run basedpyright, and hold the number of files that it saw against git's: it does not follow links by itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

FOLDERS = ("src/tallybook", "domain", "projections", "adapters", "tests/typing")


def main() -> int:
    """Exit status 0 if there is no error and no file was passed over."""
    pyright = Path(sys.executable).with_name("basedpyright")
    done = subprocess.run([pyright, "--outputjson"], capture_output=True, text=True, check=False)  # noqa: S603 - ours
    report = json.loads(done.stdout)
    for found in report["generalDiagnostics"]:
        line = found["range"]["start"]["line"] + 1
        print(f"{found['file']}:{line}: {found['severity']}: {found['message']}")
    listed = subprocess.run(  # noqa: S603 - fixed arguments
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *[f"{one}/*.py" for one in FOLDERS]],  # noqa: S607 - git of the path
        capture_output=True,
        text=True,
        check=True,
    )
    wanted, seen = len(listed.stdout.split()), report["summary"]["filesAnalyzed"]
    print(f"basedpyright: {seen} files, {report['summary']['errorCount']} errors")
    if seen != wanted:
        print(f"git has {wanted} files in {', '.join(FOLDERS)}: some were not checked")
        return 1
    return 1 if report["summary"]["errorCount"] else 0


if __name__ == "__main__":
    sys.exit(main())
