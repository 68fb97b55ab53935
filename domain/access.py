"""What the second log holds: who opened personal data, whose, which fields, and why."""

from __future__ import annotations

from uuid import UUID

from .events import Code, Fact, stored


@stored("access.personal_data_read")
class PersonalDataRead(Fact):
    """Personal data was released. A bulk read is one record with its list of subjects."""

    action: Code
    subjects: tuple[UUID, ...]
    fields: tuple[Code, ...]


@stored("access.exported")
class Exported(Fact):
    """Data left the book: in which format, the SHA-256 of what was written, how many entries, from where to where."""

    format: Code
    digest: str
    count: int
    from_position: int
    to_position: int
    address: Code | None = None
