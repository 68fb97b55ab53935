"""`book.replay`: which executor makes the certificate."""

from __future__ import annotations

from tallybook.domain.errors import MissingExtra, refusal
from tallybook.projections.read_models import Progress
from tallybook.projections.replay import COLUMNAR, DECISION_NAMES, FACT_NAMES, REFERENCE, Certificate, certify

from .archiving import missing_extra
from .core import Core

SMALL, UNCOMPILED = 20_000, 300_000
"""Books of fewer events are replayed sooner by the domain's own code than columns are made of them; and compiled."""


def certificate_by(core: Core, position: int, executor: str | None, progress: Progress | None) -> Certificate:
    """The certificate up to a position. Refuses: invalid_argument."""
    if executor not in (None, REFERENCE, COLUMNAR):
        raise refusal(
            "invalid_argument", f"executor: {REFERENCE} or {COLUMNAR}, not {executor!r}.", argument="executor"
        )
    log, decode = core.app.log, core.app.decode
    why = ""
    if executor is None and position < SMALL:
        why = f"The book has fewer than {SMALL:,} events."
    elif executor != REFERENCE:
        try:
            from tallybook.adapters.archive.certificate import NotByColumns, certificate_of, is_compiled
        except (ImportError, MissingExtra) as missing:
            why = str(missing if isinstance(missing, MissingExtra) else missing_extra(missing))
        else:
            try:
                if executor == COLUMNAR or position >= UNCOMPILED or is_compiled():
                    return certificate_of(log, decode, position, progress)
                why = f"The book has fewer than {UNCOMPILED:,} events, and nothing is compiled yet."
            except NotByColumns as error:
                why = str(error)
    made = certify(decode(log.iterate(stop=position, topics=(*FACT_NAMES, *DECISION_NAMES))), position, progress)
    made.why = why
    return made
