"""What must hold of a book after a crash, whatever happened before."""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import tallybook
from tallybook import Book, Erased
from tallybook.projections.read_models import ReadModel, Recorded, Table

from .ledger import ACTOR, FACTS, PURPOSE, Deed, Ledger, Outcome

SAMPLE = 4
GIVEN = ("name", "subject", "text", "order_id")
"""Arguments that are personal."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it must be. `kind`: lost, doubled, broken, or ahead (a checkpoint of the data)."""

    kind: str
    text: str


def check(url: str, ledger: Ledger, chance: random.Random, *, thorough: bool) -> list[Finding]:
    """Open the book as its host would, and compare it with the ledger; what the first check that fails finds.

    The rows of read models are compared as the crash left them, before a question brings them up to date; with
    `thorough` once more after they caught up.
    """
    try:
        with tallybook.open(url) as book:
            history = list(book._core.history())  # no check adds to it, or it fails
            return (
                _ledger_agrees(book, ledger, history)
                or _sound(book)
                or _rows_agree(book, history)
                or _import_agrees(book, ledger, history)
                or _erasures_agree(book, ledger, history)
                or _values_open(book, ledger, history)
                or _keys_open(book, ledger, chance)
                or _repeats(book, ledger, chance)
                or (_caught_up(book) if thorough else [])
            )
    except Exception as error:  # noqa: BLE001 - whatever it is, a book that can't be used is what is looked for
        return [Finding("broken", f"{type(error).__name__}: {error}")]


def _sound(book: Book) -> list[Finding]:
    """The frontiers fit the logs, and the decisions the facts."""
    found = _ahead(book)
    found += [Finding("broken", f"{one.log}: {one.problem}") for one in book.audit.verify() if one.problem is not None]
    if not found:
        certificate = book.replay()
        if not certificate.holds:
            found.append(Finding("broken", f"the certificate fails: {certificate.first}"))
    return found


def _ahead(book: Book) -> list[Finding]:
    """No checkpoint and no tile tells of leaves that are not in their log."""
    found = []
    for log, checkpoints in book._core.checkpoints.items():
        _, _, there = checkpoints.log.extent()
        sizes = [one.size for one in checkpoints.stored()]
        if max(sizes, default=0) > there:
            found.append(Finding("ahead", f"{log}: a checkpoint of {max(sizes)} leaves, and {there} are there"))
        if checkpoints.tiles.size() > there:
            found.append(Finding("ahead", f"{log}: tiles of {checkpoints.tiles.size()} leaves, and {there} are there"))
    return found


def _named(history: Sequence[Recorded], verb: str) -> Iterator[Recorded]:
    """The facts of a kind of command."""
    return (one for one in history if one.event.stored_name == FACTS[verb])


def _ledger_agrees(book: Book, ledger: Ledger, history: Sequence[Recorded]) -> list[Finding]:
    """Each acknowledged command is there once and whole, each other one at most once."""
    found: list[Finding] = []
    positions = [one.position for one in history]
    if positions != list(range(1, len(positions) + 1)):
        found.append(Finding("broken", "positions have gaps"))
    ids = Counter(one.event.event_id for one in history)
    found += [
        Finding("doubled", f"event id {event_id} is there {count} times")
        for event_id, count in ids.items()
        if count > 1
    ]
    by_token: dict[UUID | None, list[Recorded]] = {}
    for recorded in [*history, *book._core.reads()]:
        by_token.setdefault(recorded.event.metadata.correlation_id, []).append(recorded)
    for token, deed in ledger.begun.items():
        facts = [one for one in by_token.get(token, ()) if one.event.stored_name == FACTS[deed.verb]]
        outcome = ledger.outcomes.get(token)
        if deed.verb == "erase" and not facts and outcome is not None and outcome.result in ids:
            continue  # somebody else had erased the customer: the receipt is of that
        found += _deed_agrees(deed, outcome, facts)
        of_command = [one.position for one in by_token.get(token, ())]
        if of_command and of_command != list(range(of_command[0], of_command[0] + len(of_command))):
            found.append(Finding("doubled", f"{deed.verb} {token} stands at {of_command}: not in one commit"))
    strangers = set(by_token) - set(ledger.begun) - {None}
    found += [Finding("broken", f"{token} is in the log, and nobody asked for it") for token in strangers]
    return found


def _deed_agrees(deed: Deed, outcome: Outcome | None, facts: list[Recorded]) -> list[Finding]:
    name = f"{deed.verb} {deed.token}"
    if len(facts) > 1:
        return [Finding("doubled", f"{name} is there {len(facts)} times, at {[one.position for one in facts]}")]
    if outcome is None:
        return []
    if not outcome.recorded:
        return [Finding("broken", f"{name} was refused ({outcome.refused}) and is there")] if facts else []
    if not facts:
        return [Finding("lost", f"{name} was acknowledged and is not there")]
    event = facts[0].event
    expected = outcome.event_or_stream
    if expected is not None and expected not in (event.event_id, event.originator_id):
        return [Finding("broken", f"{name} was acknowledged as {expected} and is there as {event.event_id}")]
    return []


def _import_agrees(book: Book, ledger: Ledger, history: Sequence[Recorded]) -> list[Finding]:
    """The lines of an import that are there: none twice, none left out, at least those that were acknowledged."""
    imported = ledger.imported
    if imported is None:
        return []
    core = book._core
    refs = {
        one.position: ref
        for one in _named(history, "purchase")
        if one.event.metadata.correlation_id is None and (ref := getattr(one.event, "source_ref", None)) is not None
    }
    with book.acting(ACTOR, purpose=PURPOSE):
        opened = core.gate.open(core.gate_metadata(core.acting_now()), "crash.check", refs)
    lines = [int(str(ref).partition(":")[2]) for ref in opened.values()]
    if len(lines) != len(set(lines)):
        return [Finding("doubled", "lines of an import are there twice")]
    if len(lines) < imported.acknowledged:
        return [
            Finding("lost", f"{imported.acknowledged} lines of an import were acknowledged, {len(lines)} are there")
        ]
    if lines != list(range(2, len(lines) + 2)):  # the first line is the header
        return [Finding("broken", "an import left lines out")]
    return []


def _erasures_agree(book: Book, ledger: Ledger, history: Sequence[Recorded]) -> list[Finding]:
    """Who is erased is so everywhere, whoever is not nowhere: in events, table, key store, look-ups."""
    core = book._core
    log, keys = core.app.log, core.storage.keys
    purchases: dict[UUID, list[bytes]] = {}
    for one in _named(history, "purchase"):
        purchases.setdefault(one.event.originator_id, []).append(one.event.event_id.bytes)
    told = {one.event.originator_id for one in _named(history, "erase")}
    found = [Finding("lost", f"the erasure of {customer} was acknowledged") for customer in ledger.erased - told]
    noted = {UUID(bytes=subject) for subject, _, _ in log.erasures()}
    found += [Finding("broken", f"{customer} is erased by half: log or table") for customer in told ^ noted]
    names = [(customer, 1) for customer in sorted({*ledger.customers, *told})]
    held, destroyed = keys.get(names), keys.destroyed(names)
    for name in names:
        customer = name[0]
        erased = customer in told
        if (name in held, name in destroyed) != (not erased, erased):
            kind = "broken" if erased else "lost"
            found.append(Finding(kind, f"{customer}: erased {erased}, a key {name in held}, {destroyed.get(name)}"))
    if keys.outlived():
        found.append(Finding("broken", "copies of destroyed keys can be opened: the wrapping key outlived them"))
    gone = [one for customer in told for one in (customer.bytes, *purchases.get(customer, ()))]
    if log.claims_of(gone):
        found.append(Finding("broken", f"look-ups of erased customers are there: {len(log.claims_of(gone))}"))
    for token, deed in ledger.begun.items():
        outcome = ledger.outcomes.get(token)
        if deed.verb == "register" and outcome is not None and outcome.result is not None:
            expected = None if outcome.result in told else outcome.result
            with book.acting(ACTOR, purpose=PURPOSE):
                holder = book.customers.find("crm", str(token))
            if holder != expected:
                found.append(Finding("lost" if expected else "broken", f"{outcome.result} is found by a look-up: not"))
    return found


def _values_open(book: Book, ledger: Ledger, history: Sequence[Recorded]) -> list[Finding]:
    """Each personal value of the log opens to what was given, or its customer is erased."""
    core = book._core
    erased = set(book.erasures.all())
    given: dict[UUID | None, set[object]] = {
        token: {deed.arguments[name] for name in GIVEN if name in deed.arguments}
        for token, deed in ledger.begun.items()
    }
    handles = {
        (place, name): handle
        for place, one in enumerate(history)
        for name in one.event.personal_fields
        if (handle := getattr(one.event, name)) is not None
    }
    try:
        with book.acting(ACTOR, purpose=PURPOSE):
            opened = core.gate.open(core.gate_metadata(core.acting_now()), "crash.check", handles)
    except tallybook.TallybookError as error:
        return [Finding("lost", f"a personal value can't be opened: {error}")]
    found = []
    for (place, name), value in opened.items():
        event = history[place].event
        sealed = handles[place, name].sealed
        assert sealed is not None
        expected = given.get(event.metadata.correlation_id, set())
        if isinstance(value, Erased) != (sealed.subject_id in erased):
            kind = "lost" if isinstance(value, Erased) else "broken"
            found.append(Finding(kind, f"{name} of {event.event_id}: {value!r}; erased {sealed.subject_id in erased}"))
        elif not isinstance(value, Erased) and name in GIVEN and expected and value not in expected:
            found.append(Finding("broken", f"{name} of {event.event_id} is {value!r}"))
    return found


def _keys_open(book: Book, ledger: Ledger, chance: random.Random) -> list[Finding]:
    """The names of some acknowledged customers, the newest among them, can be opened."""
    sample = {*ledger.customers[-SAMPLE:], *chance.sample(ledger.customers, min(SAMPLE, len(ledger.customers)))}
    found = []
    erased = set(book.erasures.all())
    with book.acting(ACTOR, purpose=PURPOSE):
        for customer in sorted(sample):
            name: Any = None
            try:
                name = book.profiles.get(customer)["name"]
            except tallybook.TallybookError as error:
                found.append(Finding("lost", f"customer {customer}: {error}"))
                continue
            if customer in erased:
                if not isinstance(name, Erased):
                    found.append(Finding("broken", f"customer {customer} was erased, and is called {name!r}"))
            elif isinstance(name, Erased):
                found.append(Finding("lost", f"the key of customer {customer} is not there"))
            elif name not in ledger.names[customer]:
                found.append(Finding("broken", f"customer {customer} is called {name!r}"))
    return found


def _repeats(book: Book, ledger: Ledger, chance: random.Random) -> list[Finding]:
    """Commands with an id, given again: acknowledged ones answer the same and add nothing; those in doubt are done."""
    found = []
    known = [(deed, ledger.outcomes[token]) for token, deed in ledger.begun.items() if token in ledger.outcomes]
    with_id = [(deed, outcome) for deed, outcome in known if deed.command_id is not None and outcome.recorded]
    for deed, outcome in [*with_id[-SAMPLE:], *chance.sample(with_id, min(SAMPLE, len(with_id)))]:
        position = book.position()
        again = deed.run(book)
        if again != outcome:
            found.append(Finding("broken", f"{deed.verb} {deed.token} answers {again}, it was {outcome}"))
        if book.position() != position:
            found.append(Finding("doubled", f"{deed.verb} {deed.token} was recorded again when it was repeated"))
    return found


def check_backups(folder: Path, ledger: Ledger) -> list[Finding]:
    """A backup that has its name is whole, killed or not: it can be restored, with all from before it began."""
    found: list[Finding] = []
    for number, (file, tokens) in enumerate(ledger.backups.items()):
        if not Path(file).exists():
            continue
        again = folder / f"restored-{number}" / "shop.book"
        again.parent.mkdir()
        try:
            keys = folder / "shop.book.keys"
            shutil.copy2(folder / "shop.book.wrapping-key", again.with_name("shop.book.wrapping-key"))
            tallybook.restore(file, f"sqlite:///{again}", keys=keys)
            then = Ledger(ledger.begun, {token: ledger.outcomes[token] for token in tokens})
            with tallybook.open(f"sqlite:///{again}") as book:
                found += _ledger_agrees(book, then, list(book._core.history())) or _sound(book)
        except Exception as error:  # noqa: BLE001 - whatever it is, a backup that can't be restored is looked for
            found.append(Finding("broken", f"a backup: {type(error).__name__}: {error}"))
        shutil.rmtree(again.parent)
        os.unlink(file)
    ledger.backups.clear()
    return found


class _Folded:
    """The rows of a read model in plain dictionaries: nothing of projector or store is in between."""

    def __init__(self, model: ReadModel) -> None:
        self.rows: dict[str, dict[tuple[Any, ...], tuple[Any, ...]]] = {table.name: {} for table in model.tables}

    def load(self, table: Table, keys: Iterable[tuple[Any, ...]]) -> None:
        pass

    def get(self, table: Table, key: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return self.rows[table.name].get(key)

    def put(self, table: Table, key: tuple[Any, ...], row: tuple[Any, ...]) -> None:
        self.rows[table.name][key] = row


def _caught_up(book: Book) -> list[Finding]:
    """The same of read models that caught up."""
    book.projections.catch_up()
    return _rows_agree(book, list(book._core.history()))


def _rows_agree(book: Book, history: Sequence[Recorded]) -> list[Finding]:
    """Read models hold the rows that a fold of the log from its beginning to their position gives.

    `audit verify` folds them too, but by way of the store that the live rows went through: here nothing is shared.
    """
    core = book._core
    found = [
        Finding("broken", f"{one.read_model}: {one.problem}")
        for one in book.audit.verify_read_models()
        if one.problem is not None
    ]
    for model in core.projector.models:
        build = core.store.generation(model)
        reached = 0 if build is None else core.store.tracked(build)
        folded = _Folded(model)
        model.fold([one for one in history if one.position <= reached], folded)
        for table in model.tables:
            rows = core.store.select(model, table, [name for name, _ in table.columns])
            differing = set(rows) ^ set(folded.rows[table.name].values())
            if differing or len(rows) != len(folded.rows[table.name]):
                found.append(Finding("broken", f"{table.name}: {len(differing)} rows differ from a fold from scratch"))
    return found
