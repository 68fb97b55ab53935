"""Tallybook: an embeddable, event-sourced engine for customer relationships.

    import tallybook

    with tallybook.open("sqlite:///shop.book") as book, book.acting("agent:lin", purpose="support"):
        ada = book.customers.register(name="Ada Lovelace", email="ada@example.org")
        book.profiles.get(ada)

Names are loaded when they are first used, so that `import tallybook.domain` loads no adapter.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .release import RELEASE

if TYPE_CHECKING:
    from tallybook.domain.customer import CustomerKind, Line
    from tallybook.domain.errors import (
        ArchiveError,
        BookClosed,
        BookDamaged,
        BookError,
        BookFull,
        BookNotFound,
        BookReadOnly,
        BookUnreachable,
        Conflict,
        ImportFileError,
        InvalidInput,
        KeyLost,
        KeysMissing,
        MissingExtra,
        NewerBook,
        NewerSchema,
        NotABook,
        NotAllowed,
        NoteError,
        NotFound,
        PolicyError,
        ReadModelFailed,
        ReadsMissing,
        Refused,
        RuleSetError,
        SealError,
        SigningKeyMissing,
        StoredFormError,
        TallybookError,
        UnknownStoredName,
    )
    from tallybook.domain.personal import Erased, Masked, Withheld
    from tallybook.domain.rules import RuleSet
    from tallybook.domain.ticket import Author, TicketKind, TicketState
    from tallybook.projections.read_models import Recorded

    from .book import Book, open  # noqa: A004 - the front door
    from .follow import Follower
    from .synthesis import SynthReport, synth
    from .upkeep import doctor, restore

__version__ = RELEASE

_HOMES = {
    "Author": "tallybook.domain.ticket",
    "Book": "tallybook.book",
    "ArchiveError": "tallybook.domain.errors",
    "BookClosed": "tallybook.domain.errors",
    "BookDamaged": "tallybook.domain.errors",
    "BookError": "tallybook.domain.errors",
    "BookFull": "tallybook.domain.errors",
    "BookNotFound": "tallybook.domain.errors",
    "BookReadOnly": "tallybook.domain.errors",
    "BookUnreachable": "tallybook.domain.errors",
    "Conflict": "tallybook.domain.errors",
    "CustomerKind": "tallybook.domain.customer",
    "Erased": "tallybook.domain.personal",
    "Follower": "tallybook.follow",
    "ImportFileError": "tallybook.domain.errors",
    "InvalidInput": "tallybook.domain.errors",
    "KeyLost": "tallybook.domain.errors",
    "KeysMissing": "tallybook.domain.errors",
    "Line": "tallybook.domain.customer",
    "Masked": "tallybook.domain.personal",
    "MissingExtra": "tallybook.domain.errors",
    "NewerBook": "tallybook.domain.errors",
    "NewerSchema": "tallybook.domain.errors",
    "NotABook": "tallybook.domain.errors",
    "NotAllowed": "tallybook.domain.errors",
    "NotFound": "tallybook.domain.errors",
    "PolicyError": "tallybook.domain.errors",
    "NoteError": "tallybook.domain.errors",
    "ReadModelFailed": "tallybook.domain.errors",
    "ReadsMissing": "tallybook.domain.errors",
    "Recorded": "tallybook.projections.read_models",
    "Refused": "tallybook.domain.errors",
    "RuleSet": "tallybook.domain.rules",
    "RuleSetError": "tallybook.domain.errors",
    "SealError": "tallybook.domain.errors",
    "SigningKeyMissing": "tallybook.domain.errors",
    "StoredFormError": "tallybook.domain.errors",
    "SynthReport": "tallybook.synthesis",
    "TallybookError": "tallybook.domain.errors",
    "TicketKind": "tallybook.domain.ticket",
    "TicketState": "tallybook.domain.ticket",
    "UnknownStoredName": "tallybook.domain.errors",
    "Withheld": "tallybook.domain.personal",
    "doctor": "tallybook.upkeep",
    "open": "tallybook.book",
    "restore": "tallybook.upkeep",
    "synth": "tallybook.synthesis",
}

__all__ = [
    "ArchiveError",
    "Author",
    "Book",
    "BookClosed",
    "BookDamaged",
    "BookError",
    "BookFull",
    "BookNotFound",
    "BookReadOnly",
    "BookUnreachable",
    "Conflict",
    "CustomerKind",
    "Erased",
    "Follower",
    "ImportFileError",
    "InvalidInput",
    "KeyLost",
    "KeysMissing",
    "Line",
    "Masked",
    "MissingExtra",
    "NewerBook",
    "NewerSchema",
    "NotABook",
    "NotAllowed",
    "NotFound",
    "NoteError",
    "PolicyError",
    "ReadModelFailed",
    "ReadsMissing",
    "Recorded",
    "Refused",
    "RuleSet",
    "RuleSetError",
    "SealError",
    "SigningKeyMissing",
    "StoredFormError",
    "SynthReport",
    "TallybookError",
    "TicketKind",
    "TicketState",
    "UnknownStoredName",
    "Withheld",
    "__version__",
    "doctor",
    "open",
    "restore",
    "synth",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
