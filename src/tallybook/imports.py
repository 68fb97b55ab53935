"""`book.imports`: history from other systems, in batches that are recorded once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter

from tallybook.adapters.bulk import rarely_collecting
from tallybook.adapters.cdnow import BadLine, CdnowRow, digest_of, read_cdnow
from tallybook.domain.customer import CustomerKind, Line
from tallybook.domain.errors import ImportFileError, text
from tallybook.projections.read_models import Progress

from .commands import Desk, Work, command
from .customers import DEFAULT_PROGRAMME, identifier_claim, link_identifier, record_purchase
from .times import When

ROWS_PER_COMMIT = 500
SYSTEM = "cdnow"


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did. `recorded` + `known` + `rejected` = `purchases` in the file."""

    file: str
    digest: str
    purchases: int
    recorded: int
    known: int
    rejected: int
    customers: int
    events: int
    seconds: float


@dataclass(frozen=True, slots=True)
class _BatchResult:
    last_line: int
    purchases: int
    customers: int
    events: int


@dataclass(frozen=True, slots=True)
class _Batch:
    """Lines of a file; it is the same batch whatever its rows are called in memory."""

    digest: str
    first_line: int
    rows: tuple[CdnowRow, ...]
    enrol: bool


class ImportDesk(Desk):
    """Imports. Each can be stopped, killed and begun again: what was recorded is counted, never recorded twice."""

    _name = "imports"
    _parts = {"_record": "cdnow"}  # noqa: RUF012 - as declared in Desk

    def cdnow(
        self,
        path: str | Path,
        *,
        skip_bad: str | Path | None = None,
        enrol: bool = True,
        progress: Progress | None = None,
    ) -> ImportReport:
        """Import a file of the CDNOW form: each line a purchase of a customer known as `cdnow:<number>`.

        A line is identified by the file's SHA-256 and its number: CDNOW has no order ids, and lines that repeat
        another are purchases too. New customers are registered and (with `enrol`, where a rule set is in force)
        enrolled at their first purchase. The whole file is read once before anything is recorded: a broken line stops
        the import with nothing recorded, or goes to `skip_bad`. Raises ImportFileError. Refuses: acting_required,
        invalid_argument.
        """
        file = Path(text(str(path), "path"))
        aside = None if skip_bad is None else Path(text(str(skip_bad), "skip_bad"))
        with rarely_collecting():
            return self._cdnow(file, aside, enrol, progress)

    def _cdnow(self, path: Path, skip_bad: Path | None, enrol: bool, progress: Progress | None) -> ImportReport:
        started = perf_counter()
        core = self._core
        core.check_open()
        core.acting_now()
        digest, _ = digest_of(path)
        rejected, purchases = self._check(path, skip_bad)
        known = recorded = customers = events = 0
        after = 0
        while (done := self._receipt(digest, after + 1)) is not None:
            known += done.purchases
            after = done.last_line
        rows: Iterator[CdnowRow] = (
            row for row in read_cdnow(path, after, ends_us=self._core.now_us()) if isinstance(row, CdnowRow)
        )
        while batch := tuple(islice(rows, ROWS_PER_COMMIT)):
            result = self._record(
                _Batch(digest, after + 1, batch, enrol), command_id=self._command_id(digest, after + 1)
            )
            after = result.last_line
            recorded += result.purchases
            customers += result.customers
            events += result.events
            if progress:
                progress(known + recorded, purchases)
        return ImportReport(
            path.name,
            digest,
            purchases + rejected,
            recorded,
            known,
            rejected,
            customers,
            events,
            perf_counter() - started,
        )

    def _check(self, path: Path, skip_bad: Path | None) -> tuple[int, int]:
        bad: list[BadLine] = []
        purchases = 0
        now_us = self._core.now_us()
        for row in read_cdnow(path, ends_us=now_us):
            if isinstance(row, CdnowRow):
                purchases += 1
                continue
            if skip_bad is None:
                raise ImportFileError(
                    str(path),
                    row.line,
                    f"{row.problem}. Nothing was recorded. Mend it, or set such lines aside with --skip-bad FILE.",
                )
            bad.append(row)
        if skip_bad is not None and bad:
            _set_aside(skip_bad, b"".join(row.text if row.text.endswith(b"\n") else row.text + b"\n" for row in bad))
        return len(bad), purchases

    @staticmethod
    def _command_id(digest: str, first_line: int) -> str:
        return f"import/{SYSTEM}/{digest}/{first_line}"

    def _receipt(self, digest: str, first_line: int) -> _BatchResult | None:
        return ImportDesk._record.kept(self, self._command_id(digest, first_line))

    @command
    def _record(
        self, work: Work, batch: _Batch, *, effective_at: When | None = None, command_id: str | None = None
    ) -> _BatchResult:
        control = work.control()
        claims = {name: identifier_claim(work, SYSTEM, name) for name in {row.customer for row in batch.rows}}
        work.look_up(list(claims.values()))
        for row in batch.rows:
            stamp = work.at(row.effective_us)
            customer_id = work.holder(claims[row.customer])
            if customer_id is None:
                customer = work.fresh_customer()
                key_id, commitment = work.key_for(customer)
                customer.register(
                    stamp, CustomerKind.PERSON, key_id=key_id, commitment=commitment, fields={"source": SYSTEM}
                )
                link_identifier(work, stamp, customer, SYSTEM, row.customer)
                for programme in control.rule_book.programmes():
                    account = work.fresh_account(customer.id, programme)
                    if (
                        batch.enrol
                        and programme == DEFAULT_PROGRAMME
                        and control.rule_book.in_force(programme, row.effective_us) is not None
                    ):
                        account.enrol(stamp, customer.id, programme, control)
            else:
                customer = work.customer(customer_id)
            record_purchase(
                work,
                stamp,
                customer,
                (Line(sku="cd", category="music", quantity=row.quantity, net_minor=row.net_minor),),
                currency="USD",
                source_ref=f"{batch.digest[:16]}:{row.line}",
            )
        return _BatchResult(batch.rows[-1].line, len(batch.rows), sum(_new(work)), len(work.journal))


def _set_aside(path: Path, lines: bytes) -> None:
    """Write the reject file. Nothing is overwritten: one that is there must be the same, of an import that goes on."""
    try:
        if path.exists() and path.read_bytes() == lines:
            return
        with path.open("xb") as file:
            file.write(lines)
    except FileExistsError:
        raise ImportFileError(
            str(path), 0, "the file for rejected lines is there, with other content; name another"
        ) from None
    except OSError as error:
        raise ImportFileError(
            str(path), 0, f"rejected lines can't be written there: {error.strerror or error}"
        ) from None


def _new(work: Work) -> Sequence[bool]:
    return [event.stored_name == "customer.registered" for event in work.journal]
