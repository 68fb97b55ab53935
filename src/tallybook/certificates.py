"""`book.replay`: which executor makes the certificate, and the certificate as a signed note.

    tallybook-certificate@v1
    example.org/shop                    whose log it is about
    SHA-256 of the next line, in hex
    {…}                                 the certificate as JSON

    — example.org/shop …

Whatever verifies signed notes of C2SP verifies it, by the key that signs the book's checkpoints; no checkpoint has this
form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

from tallybook.adapters import notes
from tallybook.adapters.notes import Checkpoint, Verifier
from tallybook.domain.control import RuleSetAdopted
from tallybook.domain.errors import MissingExtra, NoteError, refusal
from tallybook.projections.read_models import Progress
from tallybook.projections.replay import COLUMNAR, DECISION_NAMES, FACT_NAMES, REFERENCE, Certificate, certify

from .archiving import missing_extra
from .core import Core
from .release import RELEASE

FORM = "tallybook-certificate@v1"
SMALL, UNCOMPILED = 20_000, 1_000_000
"""Books of fewer events are replayed sooner by the domain's own code than columns are made of them; and compiled."""


def certificate_of(core: Core, executor: str | None, sign: bool, progress: Progress | None) -> Certificate:
    """The certificate of a book. Raises BookError and BookDamaged where it can't be signed. Refuses:
    invalid_argument."""
    if executor not in (None, REFERENCE, COLUMNAR):
        raise refusal("invalid_argument", f"executor: {REFERENCE} or {COLUMNAR}, not {executor!r}.", given=executor)
    log = core.app.log
    if sign:
        stored = core.checkpoints["events"].sign()
        position, root, checkpoint = stored.size, stored.root, stored.note
    else:
        log.position()  # the last row is there
        head = log.head()
        position, root, checkpoint = head.position, head.frontier.root(), ""
    made = _replayed(core, position, executor, progress)
    made.origin, made.root, made.checkpoint, made.release = core.origin, root.hex(), checkpoint, RELEASE
    made.rules = _rules(core, position)
    if sign:
        signing = core.storage.signing
        assert signing is not None
        text = f"{FORM}\n{core.origin}\n{made.digest()}\n{made.canonical()}\n"
        made.note = notes.made(text, [signing.signer(core.signed_by().now).sign(text)])
    return made


def opened(note: str, vkeys: Sequence[str]) -> Certificate:
    """The certificate that a signed note tells, which one of the public keys signed, and the checkpoint that it is
    about. Raises NoteError."""
    keys = [Verifier.parse(vkey) for vkey in vkeys]
    text = notes.opened(note, keys).text
    lines = text.removesuffix("\n").split("\n")
    if len(lines) != 4 or lines[0] != FORM:
        raise NoteError(f"A certificate begins with {FORM!r}, and has three lines more.")
    _, origin, digest, canonical = lines
    try:
        made = Certificate.parse(canonical)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise NoteError(f"What was signed is no certificate: {error}.") from None
    if sha256(canonical.encode()).hexdigest() != digest or made.origin != origin:
        raise NoteError("The digest, or the name of the log, is not that of the certificate.")
    told = Checkpoint.parse(notes.opened(made.checkpoint, keys).text)
    if (told.origin, told.size, told.root.hex()) != (origin, made.position, made.root):
        raise NoteError("The checkpoint in the certificate is of another log, or of another position.")
    return replace(made, note=note)


def _rules(core: Core, position: int) -> str:
    """A digest of all adoptions of rule sets up to a position."""
    told = sha256()
    for at, event in core.app.decode(core.app.log.iterate(stop=position, topics=(RuleSetAdopted.stored_name,))):
        assert isinstance(event, RuleSetAdopted)
        label = f"{event.programme} {event.name}@{event.version}"
        told.update(f"{at} {label} {event.digest} {event.effective_us}\n".encode())
    return told.hexdigest()


def _replayed(core: Core, position: int, executor: str | None, progress: Progress | None) -> Certificate:
    """The certificate up to a position."""
    log, decode = core.app.log, core.app.decode
    why = ""
    if executor is None and position < SMALL:
        why = f"The book has fewer than {SMALL:,} events."
    elif executor != REFERENCE:
        try:
            from tallybook.adapters.archive.certificate import NotByColumns, by_columns, is_compiled
        except (ImportError, MissingExtra) as missing:
            why = str(missing if isinstance(missing, MissingExtra) else missing_extra(missing))
        else:
            try:
                if executor == COLUMNAR or position >= UNCOMPILED or is_compiled():
                    return by_columns(log, decode, position, progress)
                why = f"The book has fewer than {UNCOMPILED:,} events, and nothing is compiled yet."
            except NotByColumns as error:
                why = str(error)
    made = certify(decode(log.iterate(stop=position, topics=(*FACT_NAMES, *DECISION_NAMES))), position, progress)
    made.why = why
    return made
