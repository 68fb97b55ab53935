"""`tallybook keys`: the wrapping key."""

from __future__ import annotations

import typer

from .terminal import (
    Actor,
    AsJson,
    BookUrl,
    Purpose,
    acting_in,
    out,
    tell,
)

keys_app = typer.Typer(help="The keys that personal data is sealed under.", no_args_is_help=True)


@keys_app.callback()
def keys() -> None:
    """The keys that personal data is sealed under."""


@keys_app.command("rotate")
def keys_rotate(book: BookUrl, actor: Actor = None, purpose: Purpose = None, as_json: AsJson = False) -> None:
    """Wrap all data keys under a new wrapping key, and destroy the old one. Is recorded. Go on with it by opening."""
    with acting_in(book, actor, purpose) as opened:
        rotated = opened.rotate_wrapping_key()
    tell(
        rotated,
        as_json,
        lambda: out.print(
            f"{rotated.keys:,} keys are wrapped under {rotated.new} now, in the place of {rotated.old}. Copies of the "
            "keys that were made before open nothing any more: make new ones, and keep the wrapping key apart."
        ),
    )
