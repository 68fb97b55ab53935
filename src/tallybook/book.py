"""`tallybook.open` and what it returns: a book, with a desk for each kind of work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from unicodedata import normalize
from uuid import UUID

from pydantic import TypeAdapter, ValidationError

from tallybook.adapters import clock as real
from tallybook.adapters.backup import BackupReport, KeysReport, Recording, back_up, back_up_keys
from tallybook.adapters.bulk import rarely_collecting
from tallybook.adapters.checkpoints import DEFAULT_CHECKPOINT_S
from tallybook.adapters.database import check_planted
from tallybook.adapters.doctor import Finding, examine_open
from tallybook.adapters.outputs import named
from tallybook.adapters.storage import Storage, open_storage
from tallybook.adapters.sweep_files import load_candidates
from tallybook.adapters.wrapping import WrappingKeys
from tallybook.domain.errors import Refused, listed, refusal
from tallybook.domain.events import Code, Metadata
from tallybook.domain.loyalty import UNFUNDED
from tallybook.domain.rules import RuleSet
from tallybook.projections.backtest import ORDERS, Backtest, Question
from tallybook.projections.read_models import Progress
from tallybook.projections.replay import Certificate
from tallybook.projections.sweep import Sweep

from .archiving import ArchiveDesk
from .audit import AuditView
from .backtesting import EXECUTORS, backtest, sweep
from .certificates import certificate_of
from .core import RESERVED, Acting, Core
from .customers import CustomerDesk
from .erasing import Erasing
from .erasures import ErasureDesk
from .exports import ExportDesk
from .filling import FillingDesk
from .follow import Follower, follow
from .imports import ImportDesk
from .loyalty import LoyaltyDesk
from .policy import PolicyDesk
from .projecting import ProjectionsDesk
from .release import RELEASE
from .retention import RetentionDesk
from .rules import RulesDesk
from .sealing import KeyRotation, SealingDesk
from .shadow import Shadow
from .tickets import TicketDesk
from .times import When, since_us
from .views import ProfilesView, TiersView


class Book:
    """One event log with its projections and keys. Threads may share it; so may processes, each with its own."""

    def __init__(self, core: Core, application: str | None = None) -> None:
        self._core = core
        self._itself = _metadata("system:book", "operation", application=application)
        self._run: UUID | None = None
        self.customers = CustomerDesk(core)
        self.tickets = TicketDesk(core)
        self.loyalty = LoyaltyDesk(core)
        self.rules = RulesDesk(core)
        self.policy = PolicyDesk(core)
        self.imports = ImportDesk(core)
        self.exports = ExportDesk(core)
        self.profiles = ProfilesView(core)
        self.tiers = TiersView(core)
        self.audit = AuditView(core)
        self._sealing = SealingDesk(core)
        self._erasing = Erasing(core)
        self._filling = FillingDesk(core)
        self.erasures = ErasureDesk(core, self._erasing)
        self.projections = ProjectionsDesk(core)
        self.retention = RetentionDesk(core)
        self.archive = ArchiveDesk(core)

    @property
    def origin(self) -> str:
        """The book's name in its leaves: never changes."""
        return self._core.origin

    def position(self) -> int:
        """Position of the last event; 0 in an empty book."""
        self._core.check_open()
        return self._core.app.position()

    @contextmanager
    def acting(
        self,
        actor: str,
        *,
        purpose: str,
        on_behalf_of: str | None = None,
        channel: str | None = None,
        application: str | None = None,
        address: str | None = None,
        correlation_id: UUID | None = None,
        causation_id: UUID | None = None,
    ) -> Iterator[None]:
        """Act as somebody, for a purpose, in this thread or task. May be nested; the inner one counts.

        Actor and purpose are surrogates (`agent:lin`, `support`), written in the clear. `application` is the program of
        the host (default: as the book was opened); `address` where the request came from: it is written into records of
        reads and of denied attempts alone. `causation_id` names what caused the command, such as the event that is
        reacted to. Names that begin with `system:` are the book's own: no host acts so, or on behalf of such a one.
        Refuses: invalid_argument, actor_reserved.
        """
        _must_be_free(actor)
        _must_be_free(on_behalf_of)
        metadata = _metadata(
            actor,
            purpose,
            on_behalf_of=on_behalf_of,
            channel=channel,
            application=self._itself.application if application is None else application,
            correlation_id=correlation_id,
            causation_id=causation_id,
        )
        try:
            acting = Acting(metadata, _ADDRESS.validate_python(address))
        except ValidationError as error:
            raise _invalid("address", error) from None
        with self._core.acting(acting):
            yield

    def follow(self, after: int = 0, *, names: Sequence[str] = (), timeout_s: float | None = None) -> Follower:
        """The events after a position in order, each once, none left out; then those to come, as they are committed.

            for position, event in book.follow(after=last):      # or `async for`
                ...

        What each event tells is under `Event`; its personal fields stay sealed.

        `names`: only events of these stored names. `timeout_s`: end when no event has come for so long; 0: at the
        head; None: never. A position beyond the head is waited for.

        To react exactly once, write the position in the transaction of your effect, and start after the last one
        written. A reaction that is itself a command takes its command id from the position (`f"welcome/{position}"`):
        repeated after a crash, it has no second effect. A broker gets each event at least once, and the position to
        tell a repeat by. Refuses: invalid_argument.
        """
        return follow(self._core, after, names, timeout_s)

    def replay(
        self, progress: Progress | None = None, *, executor: str | None = None, sign: bool = False
    ) -> Certificate:
        """Replay all facts under the rule sets then in force: does that reproduce the recorded decisions?

        `executor`: "reference" is the domain's own code; "columnar" the same code compiled, over columns made of the
        log, and the domain's own for whatever the two don't agree about (needs the extra `replay`; to compile it takes
        a minute, once). Default: what is sooner done. Both say the same; the certificate tells which it was, and why
        it was not "columnar".
        `sign`: sign a checkpoint, replay up to it, and sign the certificate by the same key: its `note` is then what
        a stranger verifies (see `book.audit.check_certificate`). Raises BookError, BookDamaged where that can't be.
        Refuses: invalid_argument.
        """
        self._core.check_open()
        with rarely_collecting():
            return certificate_of(self._core, executor, sign, progress)

    def backtest(
        self,
        candidate: RuleSet | str | Path,
        *,
        baseline: RuleSet | str | Path | None = None,
        unfunded: str = "reject",
        order: str = "canonical",
        since: When | None = None,
        executor: str | None = None,
        customers: str | Path | None = None,
        replace: bool = False,
        workers: Any = None,
        record: bool = False,
        progress: Progress | None = None,
    ) -> Backtest:
        """Replay all facts under a candidate and compare with the recorded rule sets (or `baseline`).

        `unfunded`: what becomes of a redemption that was paid and that the candidate can't fund: "reject", "clamp" (it
        takes what is there), "deficit" (what is lacking becomes a debt). `order`: "canonical": facts as they became
        known; "hindsight": as if each had been known when it happened. `since`: the candidate is in force from then
        on, and balances at that time are as they were; None: from the beginning. docs/backtest.md tells what each
        means.

        `executor`: "columnar" (it needs the extra `replay`, and reads the archive, where there is one) or "reference";
        None: the columnar one where it can. The report says which it was, and why. `workers`: who runs it, bucket by
        bucket: None: threads of this process; "ray", "dask", an address of theirs, a `distributed.Client`, or an
        executor of `concurrent.futures`; they reach the archive (docs/scaling.md). `customers`: a Parquet file to
        write, with a row for each account; one that is there is refused, unless `replace` is given. Like each export,
        it is decided by the access policy and recorded with its digest. `record`: put on record that the candidate was
        tried, with the report's digest, for its adoption to name. Customers whose data is restricted, and those who
        object to automated decisions, are left out and counted.
        Raises RuleSetError, BookError, MissingExtra. Refuses: invalid_argument, naive_time; for `customers` too:
        acting_required, access_denied.
        """
        with rarely_collecting():
            question = self._question(candidate, baseline, unfunded, order, since, executor)
            report = backtest(
                self._core, self.archive, question, executor, progress, customers, replace=replace, workers=workers
            )
        if record:
            self.rules._note_backtest(question.candidate.rule_set, report.digest(), report.position)
        return report

    def backtest_sweep(
        self,
        candidates: str | Path | Sequence[RuleSet | str | Path],
        *,
        baseline: RuleSet | str | Path | None = None,
        budget: int | None = None,
        unfunded: str = "reject",
        order: str = "canonical",
        since: When | None = None,
        executor: str | None = None,
        workers: Any = None,
        progress: Progress | None = None,
    ) -> Sweep:
        """Try many candidates of one programme on the same history, which is loaded once.

        `candidates`: a TOML file that lists them, or says which values of one are varied (docs/backtest.md); or rule
        sets. `budget`: points that a scenario may give beyond the baseline; of a file, in the place of its own. The
        others are as for `backtest`. Of each scenario: what it costs, the liability that it leaves, who moves; the
        efficient ones are marked. Raises RuleSetError, BookError, MissingExtra. Refuses: invalid_argument.
        """
        self._core.check_open()
        if isinstance(candidates, (str, Path)):
            told = load_candidates(candidates)
            named: Sequence[tuple[str, RuleSet]] = told.scenarios
            budget = told.budget if budget is None else budget
        else:
            rule_sets = [self.rules.rules_of(one).rule_set for one in candidates]
            named = [(one.label, one) for one in rule_sets]
        if not named:
            raise refusal("invalid_argument", "candidates: none is given.", argument="candidates")
        programmes = sorted({one.programme for _, one in named})
        if len(programmes) > 1:
            raise refusal(
                "invalid_argument",
                f"candidates: they are of several programmes: {', '.join(programmes)}.",
                argument="candidates",
            )
        with rarely_collecting():
            first = self._question(named[0][1], baseline, unfunded, order, since, executor)
            questions = [(name, replace(first, candidate=self.rules.rules_of(one))) for name, one in named]
            return sweep(self._core, self.archive, questions, budget, executor, progress, workers)

    def shadow(
        self,
        candidate: RuleSet | str | Path,
        *,
        since: When | None = None,
        file: Path | str | None = None,
    ) -> Shadow:
        """Run a candidate beside the adopted rules, from `since` on (default: now), on the facts that come.

            with book.shadow("candidate", file="shadow.jsonl") as shadow:
                for difference in shadow.catch_up():
                    ...

        What it would decide is kept apart: in memory, and in a `file` of JSON lines, where another process takes it up
        later; nothing is recorded in the book. Customers who are left out of scoring are, when it begins.
        Raises RuleSetError, BookError. Refuses: busy, invalid_argument.
        """
        core = self._core
        question = self._question(candidate, None, "reject", "canonical", since, None)
        if since is None:
            question = question.beginning(core.now_us())
        return Shadow(core, self.archive, question, None if file is None else named(file, "file"))

    def _question(
        self,
        candidate: RuleSet | str | Path,
        baseline: RuleSet | str | Path | None,
        unfunded: str,
        order: str,
        since: When | None,
        executor: str | None,
    ) -> Question:
        core = self._core
        core.check_open()
        for name, value, allowed in (
            ("unfunded", unfunded, UNFUNDED),
            ("order", order, ORDERS),
            ("executor", executor, (None, *EXECUTORS)),
        ):
            if value not in allowed:
                raise refusal(
                    "invalid_argument",
                    f"{name}: {value!r} is given, and one of {', '.join(str(one) for one in allowed)} is wanted.",
                    argument=name,
                )
        return Question(
            self.rules.rules_of(candidate),
            None if baseline is None else self.rules.rules_of(baseline),
            unfunded,
            order,
            None if since is None else since_us(since),
            core.left_out(core.now_us(), core.known_at(None)),
        )

    def backup(self, file: Path | str, *, replace: bool = False, progress: Progress | None = None) -> BackupReport:
        """Copy the book into one file, as of one moment, while others write: the log, its read models, the log of
        reads. Without any key: see `backup_keys`.

        A file that is there is refused, unless `replace` is given. `progress` counts pages. Like each export, it is
        decided by the access policy and recorded with its digest before the file has its name: as whoever acts or,
        where nobody does and no policy is in force, as the book itself. Raises BookError and its kinds: BookFull,
        BookReadOnly, BookDamaged. Refuses: acting_required, access_denied.
        """
        recorded = self._recording("book.backup", "backup")
        return back_up(self._core.storage, file, replace=replace, progress=progress, recorded=recorded)

    def backup_keys(self, file: Path | str, *, replace: bool = False) -> KeysReport:
        """Copy the wrapped keys into a file of their own (mode 0600), after the backup that they belong to; the key
        that signs the checkpoints into another beside it (`.signing-key`).

        They open nothing without the wrapping key, which is not copied: keep that one apart, and the copy for a short
        time only. Whoever has both and a backup can read everything. With each erasure and rotation the book has
        another wrapping key: copy both again then. Decided and recorded as `backup` is. Raises BookError.
        Refuses: acting_required, access_denied.
        """
        recorded = self._recording("book.backup_keys", "keys")
        return back_up_keys(self._core.storage, file, replace=replace, recorded=recorded)

    def _recording(self, action: str, form: str) -> Recording:
        """See that somebody may copy the book, and give what records the copy. Refuses: acting_required."""
        core = self._core
        core.check_open()
        alone = not core.somebody_acts() and core.policy().in_force is None
        acting = self._itself if alone else core.acting_now()
        core.gate.record(core.gate_metadata(acting), action, [], [])

        def recorded(digest: str, count: int, position: int) -> None:
            first = 1 if position else 0
            core.gate.exported(
                core.gate_metadata(acting),
                format=form,
                digest=digest,
                count=count,
                from_position=first,
                to_position=position,
            )

        return recorded

    def rotate_wrapping_key(self) -> KeyRotation:
        """Wrap all data keys under a new wrapping key, destroy the old one, and record it as an event.

        Copies of the keys that were made before open nothing any more. Cut short at any point, it is finished when the
        book is opened again, and no key is lost. Other processes that have the book open on this host go on; on others,
        the source has to be one that they share. Raises BookError for a book in memory. Refuses: acting_required, busy.
        """
        return self._sealing.rotate()

    def doctor(self, *, quick: bool = False, progress: Progress | None = None) -> list[Finding]:
        """What a set of checks finds: files, pages, positions, roots, streams, events, keys, read models, space.

        `quick` leaves out what reads everything. Reports, and raises nothing but BookClosed. `tallybook.doctor` checks
        a book that can't be opened.
        """
        self._core.check_open()
        with rarely_collecting():
            core = self._core
            logs = [one.log for one in core.checkpoints.values()]
            return examine_open(core.storage, logs, core.projector.status, quick=quick, progress=progress)

    def drop_snapshots(self) -> None:
        """Drop all snapshots of long streams, and the notes of sweeps: it changes nothing that the book says, only how
        fast it is loaded and swept.

        For a book in which `doctor` found a wrong one. Other processes forget what they loaded when they open the book
        again. Refuses: busy.
        """
        self._core.check_open()
        self._core.app.drop_snapshots()

    def close(self) -> None:
        """Release all files. A closed book refuses every call."""
        if not self._core.closed:
            self._note_closed()
            self._core.closed = True
            self._core.last_checkpoints()
            self._core.app.close()
            self._core.storage.close()

    def _note_opened(self) -> None:
        core = self._core
        if core.storage.keyless:
            return  # it is read only: what is looked at without keys is nobody's personal data
        signs = core.storage.signing is not None
        # Who leaves the signing key out of a book that has one gives no command before that is on record.
        surely = not signs and core.storage.vkey is not None
        self._run = core.gate.opened(core.gate_metadata(self._itself), RELEASE, signs=signs, surely=surely)

    def _note_closed(self) -> None:
        core, run, self._run = self._core, self._run, None
        if run is not None:
            core.gate.closed(core.gate_metadata(self._itself), run)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Book({self._core.storage.url!r})"


def open(  # noqa: A001 - the name of the front door
    url: str | Storage,
    *,
    create: bool = True,
    lock_timeout_s: int = 30,
    inline: Sequence[str] = (),
    wrapping_key: str | Path | WrappingKeys | None = None,
    read_models: str | None = None,
    archive: str | Path | None = None,
    signing_key: str | Path | None = None,
    checkpoint_s: float = DEFAULT_CHECKPOINT_S,
    detached: bool | None = None,
    keyless: bool = False,
    application: str | None = None,
    now_us: Callable[[], int] = real.now_us,
    new_id: Callable[[], UUID] = real.new_id,
) -> Book:
    """Open a book: `sqlite:///shop.book` (four slashes for an absolute path), `memory:`, or a schema on a server:
    `postgresql://user@host/database?schema=shop`.

    A book that is not there is made, unless `create` is False. `lock_timeout_s` is how long a command waits for
    another process's transaction. `inline` names read models that are folded in each command's own transaction, so that
    their rows are there when it returns; each command pays for the fold. `wrapping_key` is where the key lies that all
    data keys are wrapped under: a file (default: `….wrapping-key` beside a book in files, in `~/.tallybook` for one on
    a server), or a `tallybook.adapters.wrapping.WrappingKeys`, such as a `KmsWrappingKeys`. It is made with a new book;
    each book has its own. `read_models` is the URL of a file or schema of their own, where they are to live elsewhere
    than the log; give it at each opening. The book notes the place, and one that is opened without says so in the log
    `tallybook.storage`; `"log:"` gives the place up, and keeps them beside the log again.
    `archive` is where the book's archive is (see `book.archive`): a folder, or a URL that fsspec opens; by default
    `….archive` beside a book in a file.
    `application` names the program of the host; that it opened and closed the book is noted in the log of reads.
    `signing_key` is where the key lies that signs the book's checkpoints: a file, which is made with a new book
    (default: `shop.book.signing-key` beside the book; for PostgreSQL, beside the wrapping key), or `"env:NAME"` for an
    environment variable; `"unsigned"` opens the book without, if that can be put on record. A checkpoint is signed at
    the latest `checkpoint_s` after the last one if something was committed meanwhile, and one at closing.
    `detached` makes a book whose Merkle logs commit to the hash of each event's state, never to its bytes: what is
    signed and given out as entries and proofs then holds nothing personal, not even sealed. It can't be changed later;
    an existing book that was made the other way is not opened.
    `keyless` opens a book that is there without its data keys, to be read only: to verify it, and to export a sealed
    pack of what the last checkpoints cover. Nothing is written: no record of that, no checkpoint, no row of a read
    model. Commands, personal values, and whatever else is to be recorded raise KeysMissing.
    `now_us` (µs since 1970-01-01T00:00Z) and `new_id` take the place of clock and ids.
    In the place of a URL, a `tallybook.adapters.storage.Storage` gives a book on stores of the host's own.
    Raises BookError and its kinds: BookNotFound, NotABook, NewerBook, BookReadOnly, KeysMissing, SigningKeyMissing,
    BookUnreachable. Refuses: invalid_argument, busy.
    """
    kept_inline = listed(inline, "inline", "read models")
    if isinstance(url, Storage):
        own = {
            "wrapping_key": wrapping_key,
            "read_models": read_models,
            "signing_key": signing_key,
            "detached": detached,
            "keyless": keyless or None,
        }
        for name in [name for name, given in own.items() if given is not None]:
            raise refusal("invalid_argument", f"{name}: a Storage has its own already.", argument=name)
        storage = url
    else:
        storage = open_storage(
            url,
            create=create,
            lock_timeout_s=lock_timeout_s,
            wrapping_key=wrapping_key,
            read_models=read_models,
            signing_key=signing_key,
            detached=detached,
            keyless=keyless,
        )
    try:
        if not storage.keyless:
            check_planted(storage.kept_in)
        book = Book(Core(storage, now_us, new_id, kept_inline, checkpoint_s, archive), application)
        sound = book._core.look_at_heads()
        book._note_opened()
        if storage.keyless:
            return book
        if sound:
            book._erasing.make_table_anew()
        book._erasing.repeat()
        book._sealing.follow()
        book._erasing.finish(sound=sound)
        return book
    except BaseException:
        storage.close()
        raise
    return book


_ADDRESS: TypeAdapter[str | None] = TypeAdapter(Code | None)


def _metadata(actor: str, purpose: str, **rest: Any) -> Metadata:
    try:
        return Metadata(recorded_us=0, actor=actor, purpose=purpose, **rest)
    except ValidationError as error:
        raise _invalid(".".join(map(str, error.errors()[0]["loc"])), error) from None


def _must_be_free(actor: object) -> None:
    """Refuses: actor_reserved, whatever case or width the letters have."""
    if isinstance(actor, str) and normalize("NFKC", actor).casefold().startswith(RESERVED):
        raise refusal("actor_reserved", f"Actors that begin with {RESERVED} are the book itself.", actor=actor)


def _invalid(name: str, error: ValidationError) -> Refused:
    problem = error.errors(include_input=False, include_url=False)[0]
    return refusal("invalid_argument", f"{name}: {problem['msg']}.", argument=name)
