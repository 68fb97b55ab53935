"""`tallybook audit`: checkpoints, proofs and keys of the Merkle log."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tallybook.adapters.notes import Signer

from .audit import SignedCheckpoint
from .cli_audit import audit_app, key_of
from .terminal import (
    Actor,
    AsJson,
    BookUrl,
    Keyless,
    Purpose,
    acting_in,
    check_new,
    open_book,
    open_to_verify,
    out,
    say,
    tell,
)


class Log(StrEnum):
    """The two logs of a book."""

    EVENTS = "events"
    READS = "reads"


OfLog = Annotated[Log, typer.Option("--log", help="The log of events, or that of reads of personal data")]
Out = Annotated[Path | None, typer.Option("--out", help="Write it into a file, which must not be there")]


@audit_app.command("checkpoint")
def audit_checkpoint(
    book: BookUrl,
    log: OfLog = Log.EVENTS,
    file: Out = None,
    timestamp: Annotated[
        str | None, typer.Option("--timestamp", help="URL of an RFC 3161 authority that is to sign the time")
    ] = None,
    cosigned: Annotated[
        Path | None, typer.Option("--cosigned", help="Sign none: keep this one, which a witness cosigned")
    ] = None,
    witness: Annotated[
        str | None, typer.Option("--witness", help="The witness's public key, NAME+ID+KEY, for --cosigned")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Sign the log's head as it is now. Keep that elsewhere: `audit verify --against` holds the book against it. Or
    keep one that a witness cosigned."""
    if (cosigned is None) != (witness is None):
        raise typer.BadParameter("--cosigned and --witness belong together", param_hint="--cosigned")
    check_new(file)
    with open_book(book, create=False) as opened:
        if cosigned is not None and witness is not None:
            made = opened.audit.keep(cosigned, witness)
        else:
            made = opened.audit.checkpoint(log.value)
        if timestamp is not None:
            made = opened.audit.timestamp(made, timestamp)
    if file is not None:
        _write(file, made.note.encode())
        if made.token is not None:
            _write(file.with_name(file.name + ".tsr"), made.token)
    _tell_checkpoint(made, as_json, file)


def _tell_checkpoint(made: SignedCheckpoint, as_json: bool, file: Path | None) -> None:
    def show() -> None:
        if file is None:
            out.print(made.note, end="", markup=False, highlight=False, soft_wrap=True)
        else:
            out.print(f"{made.log}: {made.size:,} leaves, signed at {made.signed_at}: {file}", markup=False)
        for name, at in made.cosigned:
            out.print(f"Cosigned by {name} at {at}.", markup=False)
        if made.stamped_at is not None:
            out.print(f"The timestamp authority says {made.stamped_at}.", markup=False)

    told = asdict(replace(made, token=None))
    del told["token"]
    tell(told, as_json, show)


@audit_app.command("proof")
def audit_proof(
    book: BookUrl,
    position: Annotated[int, typer.Argument(min=1, help="The event's position")],
    log: OfLog = Log.EVENTS,
    file: Out = None,
    as_json: AsJson = False,
) -> None:
    """Prove that an event is in the log, to somebody who has the public key: C2SP's tlog-proof."""
    with open_book(book, create=False) as opened:
        found = opened.audit.proof(position, log=log.value)
    if file is not None:
        _write(file, found.text.encode())

    def show() -> None:
        if file is None:
            out.print(found.text, end="", markup=False, highlight=False, soft_wrap=True)
        else:
            out.print(f"{found.log} {found.position:,} is in the tree of {found.size:,} leaves: {file}", markup=False)

    tell({**asdict(found), "leaf": found.leaf.hex()}, as_json, show)


@audit_app.command("certificate")
def audit_certificate(
    file: Annotated[Path, typer.Argument(help="What `tallybook replay --sign` wrote")],
    book: BookUrl,
    vkey: Annotated[
        str | None, typer.Option("--vkey", help="The public key that you kept (default: those that the book names)")
    ] = None,
    keyless: Keyless = False,
    as_json: AsJson = False,
) -> None:
    """Check that a signed certificate is as it was signed, and show it. Exit 2 if it is not; 1 if it names a
    divergence."""
    key = None if vkey is None else key_of(vkey)
    with open_to_verify(book, keyless=keyless, signs=False) as opened:
        found = opened.audit.check_certificate(file, vkey=key)

    def show() -> None:
        verdict = "holds" if found.holds else f"fails: {found.first}"
        by = "" if vkey is not None else ", by the keys that this database names"
        out.print(f"Signed{by}: {found.origin} up to position {found.position:,}, root {found.root}.", markup=False)
        out.print(f"The certificate {verdict}", markup=False)

    tell(found.document(), as_json, show)
    if not found.holds:
        raise typer.Exit(1)


@audit_app.command("rotate-key")
def audit_rotate_key(book: BookUrl, actor: Actor = None, purpose: Purpose = None, as_json: AsJson = False) -> None:
    """Have a new key sign the checkpoints; the first of each log after it bears both signatures. Prints the new public
    key. Who has the old one is led to it by the pack, and by `audit verify --vkey`."""
    with acting_in(book, actor, purpose) as opened:
        vkey = opened.audit.rotate_signing_key()
    tell({"vkey": vkey}, as_json, lambda: out.print(vkey, markup=False, highlight=False, soft_wrap=True))


@audit_app.command("vkey")
def audit_vkey(book: BookUrl, as_json: AsJson = False) -> None:
    """The public keys that sign and signed the checkpoints, the present one last."""
    with open_book(book, create=False) as opened:
        vkeys = opened.audit.vkeys()

    def show() -> None:
        for one in vkeys:
            out.print(one, markup=False, highlight=False, soft_wrap=True)

    tell({"vkeys": vkeys}, as_json, show)


@audit_app.command("new-key")
def audit_new_key(
    name: Annotated[str, typer.Argument(help="A name for it; a book signs under its own")] = "tallybook",
) -> None:
    """Print a new signing key: a secret, for the environment variable NAME of `--signing-key env:NAME`."""
    out.print(Signer.new(name).text, markup=False, highlight=False, soft_wrap=True)


@audit_app.command("rebuild-tiles")
def audit_rebuild_tiles(book: BookUrl, as_json: AsJson = False) -> None:
    """Make the tiles of both logs anew from their rows: they are derived, and `verify` found wrong ones."""
    with open_book(book, create=False) as opened:
        opened.audit.rebuild_tiles()
        found = {one.log: one.size for one in opened.audit.verify()}
    say(found, as_json, "The tiles of both logs were made anew.")


def _write(file: Path, data: bytes) -> None:
    """Write a file that is not there yet. Raises typer's error."""
    try:
        handle = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror or error}", param_hint="--out") from error
    with os.fdopen(handle, "wb") as opened:
        opened.write(data)


__all__ = ["audit_app"]
