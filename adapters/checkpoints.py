"""The signed checkpoints of a log: when one is due, what is checked before it is signed, and where they are kept."""

from __future__ import annotations

import atexit
import logging
import os
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from threading import Lock, RLock, Timer
from typing import NamedTuple

from eventsourcing.persistence import PersistenceError

from tallybook.domain.errors import BookClosed, BookDamaged, BookError, NoteError, TallybookError
from tallybook.domain.signing import SigningKeyRotated
from tallybook.projections.read_models import Table

from . import clock, merkle, notes
from .codec import EventMapper
from .database import EXAMINE, Session, damaged, onward, sound
from .keys import Keyring, MemoryKeyStore
from .log import LogRecorder, OwnStreams
from .notes import Checkpoint, Proof, Signer, Verifier
from .signing import SigningKeys, verifiers
from .tiles import Tiles, TileStore

CHECKPOINTS = Table(
    "checkpoints",
    (
        ("log", "text"),
        ("size", "integer"),
        ("signed_us", "integer"),
        ("root", "blob"),
        ("note", "text"),
        ("token", "blob"),
        ("witnesses", "text"),
    ),
    ("log", "size", "signed_us"),
)
_SELECT = "SELECT log, size, signed_us, root, note, token, witnesses FROM checkpoints WHERE log=?"

DEFAULT_CHECKPOINT_S = 60
FRESH_MAX = 8192
"""So many leaves may wait for their tiles."""

logger = logging.getLogger("tallybook.log")


class Stored(NamedTuple):
    """A checkpoint as it is kept: with its signatures, and with the token of a timestamp authority, or empty.

    `witnesses`: the public keys of others whose cosignatures are in the note, a line each.
    """

    size: int
    signed_us: int
    root: bytes
    note: str
    token: bytes = b""
    witnesses: str = ""

    def cosigned(self) -> list[tuple[Verifier, int]]:
        """Its witnesses, and when (seconds) they signed. Raises NoteError where one of them did not."""
        return [cosigned_by(self.note, cosigner_of(one)) for one in self.witnesses.splitlines()]


def cosigned_by(note: str, cosigner: Verifier) -> tuple[Verifier, int]:
    """That a witness cosigned a note, and the time (seconds) that it tells. Raises NoteError."""
    seconds = notes.opened(note, [cosigner]).signatures[0].seconds
    if seconds is None or seconds > LAST_S:
        raise NoteError(f"The cosignature of {cosigner.name} tells no time.")
    return cosigner, seconds


LAST_S = 253_402_300_799
"""The end of the year 9999."""


def cosigner_of(witness: str) -> Verifier:
    """What verifies the cosignatures of a witness, by its public key. Raises NoteError."""
    return Verifier.parse(witness).cosigner()


class Known(NamedTuple):
    """What signs a log's checkpoints, as of a moment (on the monotonic clock)."""

    until: float
    history: History
    verifiers: Sequence[Verifier]
    retired: Sequence[tuple[int, int]]
    """Up to which size older keys may have signed alone, and the number of the key that follows; in order."""


class History(NamedTuple):
    """The public keys of a book in their order, the present one last; since which position of the log of events each
    one counts: that of the rotation which brought it, and 0."""

    origin: str
    vkeys: Sequence[str]
    since: Sequence[int]

    @property
    def now(self) -> str:
        """The one that signs now."""
        return self.vkeys[-1]


class Rotation(NamedTuple):
    """That a key follows another from a position on, and the first checkpoint that both signed; None: there is none."""

    position: int
    old: str
    new: str
    both: Stored | None


def signed_by(log: LogRecorder, first: str | None) -> History:
    """The public keys of a book: the one that it noted when it was made, and those that rotations in its log brought.

    Raises BookDamaged where one does not lead to the next, BookError for a book that noted none.
    """
    place = log.database.place
    if first is None:
        raise BookError(
            "The book has no signing key.",
            path=place,
            remedy="Whoever puts a Storage together gives it `signing` and `vkey`.",
        )
    read = EventMapper(Keyring(MemoryKeyStore(log.origin), lambda *_: None)).read
    stream = OwnStreams.of(log.origin).signing
    vkeys, since = [first], [0]
    for position, version, name, state in log.stream_rows(stream):
        event = read(stream, version, name, state, position)
        if not isinstance(event, SigningKeyRotated) or event.old_vkey != vkeys[-1]:
            raise damaged("The key that signs checkpoints does not follow the one that was noted", place)
        vkeys.append(event.new_vkey)
        since.append(position)
    return History(log.origin, vkeys, since)


class Checkpoints:
    """The checkpoints of one log."""

    def __init__(
        self,
        tiles: TileStore,
        name: str,
        history: Callable[[], History],
        keys: SigningKeys | None = None,
        now_us: Callable[[], int] = clock.now_us,
        checkpoint_s: float = DEFAULT_CHECKPOINT_S,
    ) -> None:
        self.tiles = tiles
        self.log: LogRecorder = tiles.log
        self.name = name
        """The log's name in its checkpoints."""
        self._keys = keys
        self._history = history
        self._now_us = now_us
        self.checkpoint_s = checkpoint_s
        self._due = 0.0
        self._unsigned = False
        self.left_unsigned: Callable[[], None] | None = None
        """Called when a commit leaves something that is to be signed later. Raises nothing."""
        self._known: Known | None = None
        self._lock = RLock()

    # ── keeping ─────────────────────────────────────────────────────────────────────────────────────────────────

    def stored(self, after: int = -(2**63)) -> Iterator[Stored]:
        """All rows that there are, of sizes after one, by size and time: not only those that the book's keys signed.
        Raises BookDamaged."""
        last = (after, 2**63 - 1)
        while rows := self.log.database.rows(
            f"{_SELECT} AND (size>? OR (size=? AND signed_us>?)) ORDER BY size, signed_us LIMIT 500",
            [self.log.table.name, last[0], *last],
        ):
            for _, *row in sound(CHECKPOINTS, rows, self.log.database.place):
                yield Stored(*row)
            last = onward(rows[-1][1:3], last, self.log.database.place)

    def genuine(self, after: int = -(2**63)) -> Iterator[Stored]:
        """Those of sizes after one, by size and time, that the book's own keys signed. Raises BookDamaged."""
        return filter(self.is_genuine, self.stored(after))

    def last(self) -> Stored | None:
        """The one of the greatest size, of those the newest, that the book's own keys signed. Raises BookDamaged."""
        before = (2**63 - 1, 2**63 - 1)
        while rows := self.log.database.rows(
            f"{_SELECT} AND (size<? OR (size=? AND signed_us<?)) ORDER BY size DESC, signed_us DESC LIMIT 10",
            [self.log.table.name, before[0], *before],
        ):
            for _, *row in sound(CHECKPOINTS, rows, self.log.database.place):
                if self.is_genuine(one := Stored(*row)):
                    return one
            onward(before, rows[-1][1:3], self.log.database.place)
            before = rows[-1][1:3]
        return None

    def must_be_signed(self, stored: Stored, known: Known | None = None) -> None:
        """Raises NoteError for a checkpoint whose note says something else than its row, or that no key of this book
        signed which counted then."""
        head, note = self.opened(stored.note) if known is None else self._opened(stored.note, known)
        times = {one.seconds for one in note.signatures} - {None}
        if (head.size, head.root) != (stored.size, stored.root) or times != {stored.signed_us // 1_000_000}:
            raise NoteError("its row says something else than its note.")
        lines = len(notes.taken_apart(stored.note)[1])
        if lines != len(note.signatures) + len(stored.witnesses.splitlines()):
            raise NoteError("one of its signatures is of nobody whom the book knows.")

    def is_genuine(self, stored: Stored, known: Known | None = None) -> bool:
        """The same as an answer."""
        try:
            self.must_be_signed(stored, known)
        except NoteError:
            return False
        return True

    def verifiers(self) -> list[Verifier]:
        """What verifies them: all keys that the book ever had."""
        history = self._history()
        return verifiers(history.vkeys, history.origin, self.name)

    def rotations(self) -> Iterator[Rotation]:
        """The steps from each key to the next, in their order, with the checkpoints that both signed. Of the log of
        events, which tells of the log of reads' keys, too."""
        keys = self._history().vkeys
        stream = OwnStreams.of(self.log.origin).signing
        for number, (position, *_) in enumerate(self.log.stream_rows(stream), 1):
            old, new = keys[number - 1 : number + 1]
            both = (
                one for one in self.genuine(position - 1) if self._signed_by(one, old) and self._signed_by(one, new)
            )
            yield Rotation(position, old, new, next(both, None))

    def opened(self, note: str | bytes) -> tuple[Checkpoint, notes.Note]:
        """What a note tells that a key of this book signed which counted then. Raises NoteError for any other."""
        known = self._known
        if known is not None and time.monotonic() <= known.until:  # asked for one by one, of very many
            try:
                return self._opened(note, known)
            except NoteError:
                pass  # another process may have rotated the key since
        self._known = known = self._newest_known()
        return self._opened(note, known)

    def _opened(self, note: str | bytes, known: Known) -> tuple[Checkpoint, notes.Note]:
        found = notes.opened(note, known.verifiers)
        checkpoint = Checkpoint.parse(found.text)
        if checkpoint.origin != self.name:
            raise NoteError(f"This is a checkpoint of {checkpoint.origin}, not of {self.name}.")
        first = max((number for size, number in known.retired if checkpoint.size > size), default=0)
        vkeys = known.history.vkeys
        counting = {Verifier.parse(one).public for one in vkeys[first:]}
        if first and not any(one.verifier.public in counting for one in found.signatures):
            raise NoteError(
                f"A key that was retired signed this checkpoint of {self.name} alone: for {checkpoint.size} leaves, "
                f"only {vkeys[first]} counts, or one after it."
            )
        return checkpoint, found

    def _newest_known(self) -> Known:
        history = self._history()
        made = verifiers(history.vkeys, history.origin, self.name)
        retired = []
        for number, (vkey, since) in enumerate(zip(history.vkeys, history.since, strict=True)):
            if number == 0:
                continue
            # The log of events says where the key was changed; the other, by what the new key signed there first.
            upto = since - 1 if self.name == history.origin else self._first_signed(vkey)
            if upto is not None:
                retired.append((upto, number))
        return Known(time.monotonic() + 1, history, made, retired)

    def _first_signed(self, vkey: str) -> int | None:
        """The least size of which a checkpoint that is kept bears a line by a key; None: there is none."""
        key = Verifier(self.name, Verifier.parse(vkey).public)
        begins = notes.line(key.name, key.key_id + bytes(2))[:-4]  # as far as the key's id alone makes it
        rows = self.log.database.rows(
            "SELECT size, note FROM checkpoints WHERE log=? AND replace(note, ?, '')<>note ORDER BY size",
            [self.log.table.name, begins],
        )
        for size, note in rows:
            with suppress(NoteError):
                if Checkpoint.parse(notes.opened(note, [key]).text).size == size:
                    return int(size)
        return None

    def must_bear(self, vkey: str) -> Stored:
        """The last checkpoint, which bears the signature of a public key that was had from elsewhere.

        Raises NoteError where it does not, or where there is none.
        """
        given = Verifier.parse(vkey)
        if given.name not in (self._history().origin, self.name):
            raise NoteError(f"The key that was given is one of {given.name}, and this log is {self.name}.")
        last = self.last()
        if last is None:
            raise NoteError(f"No checkpoint of {self.name} is kept that the key which was given could have signed.")
        try:
            told = Checkpoint.parse(notes.opened(last.note, [Verifier(self.name, given.public)]).text)
        except NoteError as error:
            raise NoteError(
                f"The key that was given did not sign the last checkpoint of {self.name}, of size {last.size}: {error}"
            ) from None
        if told != Checkpoint(self.name, last.size, last.root):
            raise NoteError(f"The last checkpoint of {self.name} tells something else than stands beside it.")
        return last

    # ── signing ─────────────────────────────────────────────────────────────────────────────────────────────────

    def sign(self) -> Stored:
        """Sign the log's head as it is now, with the time. The tiles are brought up to it first.

        Never without a look: the head's root must be that of the tiles, and they must go on from the last checkpoint,
        and from the head that this process saw last.
        Raises BookDamaged where not, BookError where the book is unsigned.
        """
        self._unsigned = False  # before the head is read: what is committed after that says so again
        try:
            return self._sign()
        except BaseException:
            self._unsigned = True
            raise

    def _sign(self) -> Stored:
        with self._lock:
            keys = self._must_have_keys()
            last = self.last()  # before the head, which is then never behind it
            seen = self.log.seen
            head = self.log.head()
            if last is not None and last.size > head.position:
                raise damaged(
                    f"The log of {self.name} ends at position {head.position}, and its last checkpoint tells of "
                    f"{last.size} leaves",
                    self.log.database.place,
                )
            root = head.frontier.root()
            known = []
            if seen is not None:
                known.append((seen.position, merkle.Frontier(seen.position, seen.frontier).root(), "this process saw"))
            if last is not None:
                known.append((last.size, last.root, "was signed"))
            self._must_agree(head.position, root, known)
            checkpoint = Checkpoint(self.name, head.position, root)
            history = self._history()
            signers = [keys.signer(history.now)]
            if len(history.vkeys) > 1 and (last is None or not self._signed_by(last, history.now)):
                # The first one after a rotation bears the old key's signature too, if that is at hand.
                signers += [one for one in keys.signers(newest=True) if one.vkey == history.vkeys[-2]]
            signed_us = self._now_us()
            table, size, keys_now = self.log.table.name, head.position, self._newest_known()
            with self.log.database.session(write=True) as session:
                head_then = self.log.count_signed(session, lambda: self._is_known(session, size, keys_now))
                # Of those of one size, the first and the last tell all: since when, and until when it stood so.
                session.run(
                    "DELETE FROM checkpoints WHERE log=? AND size=? AND length(token)=0 AND witnesses='' "
                    "AND signed_us>("
                    "SELECT MIN(signed_us) FROM checkpoints WHERE log=? AND size=?)",
                    [table, size, table, size],
                )
                # A clock may stand still, or have been set back: none that is there is overwritten.
                taken = {one.signed_us for one in self._of_size(session, size)}
                while signed_us in taken:
                    signed_us += 1
                made = Stored(size, signed_us, root, self._note(checkpoint, signers, signed_us))
                session.insert(CHECKPOINTS, [(table, *made)])
            self.log.saw(head_then)
            self._known = None  # it may be the first one by another key, which retires the one before
            self._due = time.monotonic() + self.checkpoint_s
            return made

    def keep_token(self, stored: Stored, token: bytes) -> None:
        """Keep what a timestamp authority says of a checkpoint."""
        with self.log.database.session(write=True) as session:
            session.upsert(CHECKPOINTS, [(self.log.table.name, *stored._replace(token=token))])

    def keep_cosigned(self, note: str, witness: str) -> Stored:
        """Keep a checkpoint of this log that a witness has cosigned, beside those that are kept.

        Raises NoteError where the log's key or the witness did not sign it, BookDamaged where the log does not lead
        through it: then the witness saw another log than this one.
        """
        head, ours = self.opened(note)
        cosigner = cosigner_of(witness)
        if any(cosigner.public == one.public for one in self.verifiers()):
            raise NoteError("The key that was given as a witness's is the log's own.")
        cosigned_by(note, cosigner)
        position = self.log.position()
        if head.size > position:
            raise damaged(
                f"A witness saw {head.size} leaves of {self.name}, and the log ends at {position}",
                self.log.database.place,
            )
        self.consistency(head, head)
        kept = next((one for one in self.stored(head.size - 1) if one.size == head.size and _same(one, note)), None)
        if kept is None:
            told = [one.seconds for one in ours.signatures if one.seconds is not None]
            lines = [line for one in ours.signatures for line in _lines_of(note, one.verifier)]
            if not told:
                raise NoteError("The log's own signature with the time is not in this note.")
            kept = Stored(head.size, told[0] * 1_000_000, head.root, notes.made(ours.text, lines))
        if cosigner.vkey in kept.witnesses.splitlines():
            return kept
        [line] = _lines_of(note, cosigner)
        keys_now = self._newest_known()
        made = kept._replace(note=kept.note + line, witnesses=f"{kept.witnesses}{cosigner.vkey}\n")
        with self.log.database.session(write=True) as session:
            head_then = self.log.count_signed(session, lambda: self._is_known(session, made.size, keys_now))
            session.upsert(CHECKPOINTS, [(self.log.table.name, *made)])
        self.log.saw(head_then)
        return made

    def _of_size(self, session: Session, size: int) -> list[Stored]:
        rows = session.rows(f"{_SELECT} AND size=?", (self.log.table.name, size))
        return [Stored(*row) for _, *row in sound(CHECKPOINTS, rows, self.log.database.place)]

    def _is_known(self, session: Session, size: int, known: Known) -> bool:
        """Whether one of a size was signed before."""
        # First by the keys that were known before the session: in memory, nothing else can be read in the middle of it.
        return any(self.is_genuine(one, known) or self.is_genuine(one) for one in self._of_size(session, size))

    def _note(self, checkpoint: Checkpoint, signers: Sequence[Signer], signed_us: int) -> str:
        text, seconds = checkpoint.text, signed_us // 1_000_000
        lines: list[str] = []
        for one in signers:
            lines += [one.named(self.name).sign(text), one.cosign(text, seconds)]
        return notes.made(text, lines)

    def _signed_by(self, stored: Stored, vkey: str) -> bool:
        try:
            notes.opened(stored.note, [Verifier(self.name, Verifier.parse(vkey).public)])
        except NoteError:
            return False
        return True

    def _must_agree(self, size: int, root: bytes, known: Sequence[tuple[int, bytes, str]]) -> None:
        """Raises BookDamaged unless tiles, made anew if need be, give the head's root and those that are known."""
        try:
            self.tiles.catch_up(size)
            told = self._disagreement(size, root, known)
        except BookDamaged as error:
            told = error.message
        if told is None:
            return
        if self.tiles.rows_give({**{before: expected for before, expected, _ in known if before <= size}, size: root}):
            logger.warning("The tiles of %s are made anew: %s", self.name, told)
            self.tiles.rebuild(size)
            told = self._disagreement(size, root, known)
        # Else the rows are what was altered, and the tiles are what tells which of them: they are left as they are.
        if told is not None:
            raise damaged(told, self.log.database.place, f"No checkpoint is signed. {EXAMINE}")

    def _disagreement(self, size: int, root: bytes, known: Sequence[tuple[int, bytes, str]]) -> str | None:
        tree = self.tiles.reader(size)
        if tree.root() != root:
            return f"The stored bytes of {self.name} do not give the root of its head"
        for before, expected, told in known:
            if before <= size and tree.root(before) != expected:
                return f"The log of {self.name} was rewritten: at size {before}, its root is another than {told}"
        return None

    # ── by itself ───────────────────────────────────────────────────────────────────────────────────────────────

    def at_open(self) -> None:
        """See the head as it is, so that it can't go back from here on; and have it signed in time, if a process that
        was killed left it unsigned."""
        try:
            last = self.last()
            self._unsigned = self.log.head().position > (0 if last is None else last.size)
        except (TallybookError, PersistenceError) as error:
            logger.warning("The log of %s can't be gone on with: %s", self.name, error)
        self._tell_unsigned()

    def after_commit(self) -> None:
        """After a commit: sign if the last checkpoint is too old; write tiles if many leaves wait for theirs.

        What is committed stands, whatever happens here.
        """
        self._unsigned = True
        fresh = self.log.fresh
        now = time.monotonic()
        if now >= self._due and self._keys is not None:
            self._due = now + self.checkpoint_s
            self._quietly(self._sign_if_due)
        elif fresh is not None and fresh.count >= FRESH_MAX:
            self._quietly(self.tiles.catch_up)
        self._tell_unsigned()

    def _tell_unsigned(self) -> None:
        if self._unsigned and self.left_unsigned is not None:
            self.left_unsigned()

    def tail_due(self) -> float | None:
        """When what was committed and not signed is to be signed, on the monotonic clock; None: there is nothing."""
        return self._due if self._unsigned and self._keys is not None else None

    def sign_tail(self) -> None:
        """Sign what was committed and not signed, if it is due and nobody else did."""
        due = self.tail_due()
        if due is not None and time.monotonic() >= due:
            self._due = time.monotonic() + self.checkpoint_s
            self._quietly(self._sign_tail)

    def _sign_tail(self) -> None:
        self._unsigned = False
        try:
            last = self.last()
            if last is None or last.size < self.log.position():
                self._unsigned = True
                self._sign_if_due()
        except BookClosed:  # who closed it has signed it, or it waits for the next opening
            self._unsigned = False
        except BaseException:
            self._unsigned = True
            raise

    def heartbeat(self) -> None:
        """Sign if the last checkpoint is too old, though nothing was added: the log still stands as it stood."""
        if time.monotonic() >= self._due and self._keys is not None:
            self._due = time.monotonic() + self.checkpoint_s
            self._quietly(self._sign_if_due)

    def at_close(self) -> None:
        """Sign what was added since the last checkpoint, by whomever."""
        if self._keys is not None:
            self._quietly(self._sign_if_behind)

    def _sign_if_due(self) -> None:
        last = self.last()  # another process may have signed one
        age_s = None if last is None else (self._now_us() - last.signed_us) / 1e6
        if age_s is None or not 0 <= age_s < self.checkpoint_s:
            self.sign()
        else:
            self._due = time.monotonic() + self.checkpoint_s - age_s

    def _sign_if_behind(self) -> None:
        last = self.last()
        position = self.log.position()
        if position and (last is None or last.size < position):
            self.sign()

    def _quietly(self, do: Callable[[], object]) -> None:
        try:
            do()
        except (TallybookError, PersistenceError) as error:
            logger.warning("No checkpoint of %s was signed: %s", self.name, error)

    # ── proofs ──────────────────────────────────────────────────────────────────────────────────────────────────

    def proof(self, position: int, stored: Stored) -> Proof:
        """That the leaf at a position is in the tree of a checkpoint. It is verified before it is given.

        Raises BookDamaged where the log's bytes are not those that the checkpoint tells of.
        """
        index = position - 1
        [leaf] = merkle.row_hashes(self.log.origin, list(self.log.rows_at([position])))

        def made(tree: Tiles) -> Sequence[bytes] | None:
            path = tree.inclusion(index)
            return path if merkle.root_of_inclusion(index, stored.size, leaf, path) == stored.root else None

        found = self._from_tiles(stored.size, stored.root, made)
        if found is None:
            raise damaged(
                f"The event at position {position} of {self.name} is not the one that the checkpoint of size "
                f"{stored.size} tells of",
                self.log.database.place,
            )
        return Proof(index, found, stored.note)

    def must_hold(self, positions: Sequence[int]) -> None:
        """See that the events at some positions are leaves of the tree that the log's head tells of: for what can't be
        undone. Some 0.1 ms for each. Raises BookDamaged."""
        head = self.log.head()
        size, root = head.position, head.frontier.root()
        leaves = merkle.row_hashes(self.log.origin, list(self.log.rows_at(positions)))

        def made(tree: Tiles) -> Sequence[bytes] | None:
            for position, leaf in zip(positions, leaves, strict=True):
                index = position - 1
                if merkle.root_of_inclusion(index, size, leaf, tree.inclusion(index)) != root:
                    return None
            return ()

        if positions and self._from_tiles(size, root, made) is None:
            raise damaged(
                f"Of the events of {self.name} that this rests on, one is not what the head of the log tells of",
                self.log.database.place,
            )

    def consistency(self, old: Checkpoint, new: Checkpoint) -> Sequence[bytes]:
        """That the tree of a checkpoint goes on from that of an older one. Raises BookDamaged where it does not."""

        def made(tree: Tiles) -> Sequence[bytes] | None:
            fits = tree.root() == new.root and tree.root(old.size) == old.root
            return tree.consistency(old.size) if fits else None

        found = self._from_tiles(new.size, new.root, made)
        if found is None:
            raise damaged(
                f"The log of {self.name} is not the one that the checkpoints of size {old.size} and {new.size} tell of",
                self.log.database.place,
            )
        return found

    def _from_tiles(
        self, size: int, root: bytes, made: Callable[[Tiles], Sequence[bytes] | None]
    ) -> Sequence[bytes] | None:
        """A proof from the tiles. Where they don't give one that holds, and the rows do, they are made anew."""
        try:
            self.tiles.catch_up(size)
            found = made(self.tiles.reader(size))
            if found is not None:
                return found
        except BookDamaged:
            logger.warning("The tiles of %s are damaged", self.name, exc_info=True)
        head = self.log.head()
        if not self.tiles.rows_give({head.position: head.frontier.root(), size: root}):
            return None  # they tell which row was altered: see `_must_agree`
        logger.warning("The tiles of %s are made anew.", self.name)
        self.tiles.rebuild()
        return made(self.tiles.reader(size))

    def _must_have_keys(self) -> SigningKeys:
        if self._keys is None:
            raise BookError(
                "The book was opened without a signing key: no checkpoint of it can be signed.",
                path=self.log.database.place,
                remedy="Open it with its key: see `signing_key` of `tallybook.open`.",
            )
        return self._keys


class TailTimer:
    """Signs in the background what commits left unsigned, once it is due, though nothing more is committed.

    A thread waits while there is something to sign, and only then. It holds up neither the end of the interpreter nor
    the collection of a book that nobody closed.
    """

    SOONEST_S = 1.0
    """A moment, for whoever opened the book only to close it again."""

    def __init__(self, logs: Sequence[Checkpoints]) -> None:
        self._logs = logs
        self._armed = Lock()  # is never waited for: signal handlers and forks find it in any state
        self._stopped = False
        self._pid = os.getpid()
        self._timer: Timer | None = None
        for one in logs:
            one.left_unsigned = self.arm
        TIMERS.add(self)

    def arm(self) -> None:
        """Wait for what is due first, unless somebody does."""
        if self._stopped or not self._armed.acquire(blocking=False):
            return
        due = min((due for one in self._logs if (due := one.tail_due()) is not None), default=None)
        if due is None:
            self._armed.release()
            return
        soonest_s = min([self.SOONEST_S, *(one.checkpoint_s for one in self._logs)])
        timer = Timer(max(due - time.monotonic(), soonest_s, 0.01), _ring, [weakref.ref(self)])
        timer.daemon = True
        timer.name = "tallybook-checkpoints"
        try:
            timer.start()
            self._timer = timer
            if self._stopped:
                timer.cancel()
        except RuntimeError as error:  # the system has no thread for us, or the interpreter ends
            self._armed.release()
            logger.warning("What was not signed yet is signed after a later commit, or at closing: %s", error)

    def ring(self) -> None:
        """Sign what is due, and wait for the rest."""
        try:
            for one in self._logs:
                if not self._stopped:
                    one.sign_tail()
        finally:
            self._armed.release()
        self.arm()

    def stop(self) -> None:
        """Sign nothing any more. What is being signed goes on."""
        self._stopped = True
        if self._timer is not None and self._pid == os.getpid():
            self._timer.cancel()

    def finish(self, timeout_s: float) -> None:
        """Stop, and wait for what is being signed."""
        self.stop()
        if self._timer is not None and self._pid == os.getpid():
            self._timer.join(timeout_s)


TIMERS: weakref.WeakSet[TailTimer] = weakref.WeakSet()


def _ring(timer: weakref.ref[TailTimer]) -> None:
    found = timer()
    if found is not None:
        found.ring()


@atexit.register
def _finish() -> None:
    """No thread is to be in the middle of a transaction when the interpreter is taken down."""
    for timer in list(TIMERS):
        timer.finish(5.0)


def _lines_of(note: str, verifier: Verifier) -> list[str]:
    """The lines of a note that are one key's signatures."""
    text, signatures = notes.taken_apart(note)
    del text
    return [notes.line(name, data) for name, data in signatures if (name, data[:4]) == (verifier.name, verifier.key_id)]


def _same(stored: Stored, note: str) -> bool:
    """Whether a note is a stored one, with signatures added."""
    (kept_text, kept), (text, given) = notes.taken_apart(stored.note), notes.taken_apart(note)
    own = len(kept) - len(stored.witnesses.splitlines())  # witnesses' lines come last
    return kept_text == text and all(one in given for one in kept[:own])
