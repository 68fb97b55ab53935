"""The `tallybook` command: starts the command line, or says which extra it needs."""

from __future__ import annotations

import sys

from tallybook.domain.errors import MissingExtra


def main() -> None:
    """Run the command line. Exit status 0 done, 1 the check failed, 2 wrong use, 130 interrupted."""
    try:
        import rich
        import typer

        del rich, typer
        from .cli import run
        from .terminal import show_log
    except ModuleNotFoundError as error:
        if error.name not in ("rich", "typer"):
            raise
        print(MissingExtra(error.name, "cli"), file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:  # nothing has begun
        raise SystemExit(130) from None
    show_log()
    run()
