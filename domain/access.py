"""What the second log holds: who opened personal data or was denied it, whose, which fields, why, under which policy;
when the log was opened and closed; what left the book."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple, Protocol
from uuid import UUID

from pydantic import StringConstraints

from .events import CODE_CHARS, CODE_CHARS_MAX, COMPOSED, Code, Fact, stored

FieldName = Annotated[
    str, StringConstraints(pattern=f"^{CODE_CHARS}$", max_length=CODE_CHARS_MAX + len("identifier.")), COMPOSED
]
"""A personal field as policies call it: `name`, `contact.email`, `identifier.crm`."""

OUTSIDE_HOURS = "outside_hours"
RELEASED, DENIED = "released", "denied"
RESEALED = "resealed"
"""The outcome of what the book opened to seal it anew: nobody was shown anything."""
TOLD = "told"
"""The outcome of what a refused command told by the way: whether somebody is known by a value that it was given."""
KEEPING = "erasures.keep"
"""The action of reads by which the book seals anew what stays where a key is destroyed. Nobody is shown anything."""
WITHHELD_DENIED, WITHHELD_RESTRICTED, WITHHELD_NO_CONSENT = "denied", "restricted", "no_consent"


@stored("access.personal_data_read")
class PersonalDataRead(Fact):
    """Personal data was asked for. A bulk read is one record with its list of subjects.

    - `outcome`: `released`, `denied` (nothing was released), `told`: a command (`action`) was refused, and so told
      whether somebody is known by an external id, or an order id recorded; or `resealed`: the book itself opened what
      stays where a key is destroyed, to seal it anew, and showed it to nobody; no policy applies to that;
    - `subjects`: whose data was asked for;
    - `fields`, `masked`, `withheld`: which fields were released as they are, in part, not at all; one of which every
      value was erased is in none of them;
    - `erased`: subjects of whom something sealed was asked for, and all of it was erased: nothing of it was seen;
    - `restricted`: subjects of whom nothing was released, because their data is restricted;
    - `consents`: where the purpose rests on a consent, the version of its text for each of `subjects`; `-` where there
      is none, and nothing of that subject was released;
    - `policy`: digest of the access policy that decided, `rules`: ids of its rules that did (of what was told: the one
      that allowed the command); nil: none was in force, or
      the outcome is `resealed`;
    - `legal_basis`: of the purpose, as the policy says;
    - `remote_address`: where the request came from, if the host said so.
    """

    action: Code
    outcome: Code
    subjects: tuple[UUID, ...]
    fields: tuple[FieldName, ...]
    masked: tuple[FieldName, ...] = ()
    withheld: tuple[FieldName, ...] = ()
    restricted: tuple[UUID, ...] = ()
    consents: tuple[Code, ...] = ()
    policy: str | None = None
    rules: tuple[Code, ...] = ()
    legal_basis: Code | None = None
    remote_address: Code | None = None
    erased: tuple[UUID, ...] = ()


@stored("access.command_denied")
class CommandDenied(Fact):
    """Somebody gave a command that the access policy does not allow him. Nothing of it is in the book."""

    command: Code
    policy: str
    rules: tuple[Code, ...] = ()
    remote_address: Code | None = None


@stored("access.exported")
class Exported(Fact):
    """Data left the book: in which format, the SHA-256 of what was written, how many entries, from where to where."""

    format: Code
    digest: str
    count: int
    from_position: int
    to_position: int
    remote_address: Code | None = None


@stored("log.opened")
class LogOpened(Fact):
    """A process opened the book: from here on it records reads. `release` is Tallybook's, `process` the system's id.

    `signs`: it holds the key that signs the checkpoints. One that does not (`signing_key="unsigned"`) signs nothing of
    what it records: that waits for another's checkpoint.
    """

    release: Code
    process: int
    signs: bool


@stored("log.closed")
class LogClosed(Fact):
    """It closed the book: of this stream, LogOpened is the first event and this the second. None: it was killed."""


class Standing(NamedTuple):
    """Whether a subject's data is restricted, and the text version of the consent that is in force, if there is one.

    `version` is that of the subject's stream that it was taken from; None: the newest.
    """

    restricted: bool = False
    consent: str | None = None
    version: int | None = None


class Standings(Protocol):
    """Gives the standing of subjects with regard to a consent's purpose."""

    def __call__(
        self, subjects: Sequence[UUID], consent: str | None, *, newest: bool = True
    ) -> Mapping[UUID, Standing]:
        """Left out: neither restricted nor consenting. Without `newest`, as this process saw them last."""
        ...


NO_CONSENT = "-"
