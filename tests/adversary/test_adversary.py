"""A small campaign, and that its judge has teeth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from . import attacks
from .attacks import Attack
from .judge import AGAINST, DOCTOR, FOUND, HARMLESS, LIMIT, MISSED, NAMED, campaign, judge
from .tail import FORK, WAYS, tails
from .victim import BOOK, Template, copy, short_streams, template

COUNT = 6
"""Of each kind. `make adversary` attacks 10,000 times."""


@pytest.fixture(scope="module")
def book_of(tmp_path_factory: pytest.TempPathFactory) -> Template:
    return template(tmp_path_factory.mktemp("adversary") / "book")


@pytest.fixture
def folder(book_of: Template, tmp_path: Path) -> Iterator[Path]:
    copy(book_of.folder, tmp_path / "copy")
    with short_streams():
        yield tmp_path / "copy"


@pytest.mark.parametrize("kind", attacks.WAYS)
def test_no_attack_is_missed(kind: str, book_of: Template, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attacks, "WAYS", {kind: attacks.WAYS[kind]})
    tally = campaign(book_of, f"tests/{kind}", COUNT, tmp_path)
    assert tally.missed == []
    assert tally.outcomes.total() == COUNT


@pytest.mark.parametrize("kind", WAYS)
def test_no_attack_on_an_unsigned_tail_is_missed(kind: str, book_of: Template, tmp_path: Path) -> None:
    tally = tails(book_of, f"tests/{kind}", COUNT, tmp_path, [kind])
    assert tally.missed == []
    assert tally.outcomes.total() == COUNT
    limits = {called for called, outcome in tally.outcomes if outcome == LIMIT}
    assert limits <= {"killed: put an older head back, delete the tail", "killed: cut the tail, with a head that fits"}


def test_a_tail_that_grew_or_shrank_unnoticed_is_missed(
    book_of: Template, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tallybook.adapters.log.LogRecorder._flaw", lambda *_: None)
    for kind in ("add events with a head that fits", "set a log back to an empty one"):
        assert tails(book_of, "teeth", 4, tmp_path, [kind]).missed


def test_a_fork_that_is_taken_over_is_missed(
    book_of: Template, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tallybook.adapters.log.LogRecorder._leads", lambda *_: True)
    assert tails(book_of, "teeth", 8, tmp_path, [FORK]).missed


def test_a_book_that_nobody_touched_is_well(book_of: Template, folder: Path) -> None:
    assert judge(book_of, folder, Attack("nothing")) == (HARMLESS, "")


def test_what_is_found_is_named(book_of: Template, folder: Path) -> None:
    attacks.run(folder / BOOK, "UPDATE stored_events SET topic='customer.changed' WHERE position=200")
    assert judge(book_of, folder, Attack("", "events", 200))[0] == NAMED
    assert judge(book_of, folder, Attack("", "events", 201))[0] == MISSED, "a wrong name counts as none"


def test_what_doctor_finds(book_of: Template, folder: Path) -> None:
    attacks.run(folder / BOOK, "DELETE FROM claims")
    assert judge(book_of, folder, Attack(""))[0] == DOCTOR


def test_what_nothing_finds_is_missed(book_of: Template, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attacks.run(folder / BOOK, "DELETE FROM claims")
    monkeypatch.setattr("tallybook.book.Book.doctor", lambda _: [])
    assert judge(book_of, folder, Attack(""))[0] == MISSED


@pytest.mark.parametrize("log", ["events", "reads"])
def test_who_signs_again_with_the_real_key_is_found_against_a_checkpoint_kept_elsewhere(
    log: str, book_of: Template, folder: Path
) -> None:
    name, table = attacks.LOGS[log]
    attacks.run(folder / name, f"UPDATE {table} SET originator_version=originator_version+7 WHERE position=3")
    attacks.fit(folder, log, keys=True)
    assert judge(book_of, folder, Attack("", log))[0] == FOUND, "its checkpoints tell"
    attacks.run(folder / name, "DELETE FROM checkpoints")
    assert judge(book_of, folder, Attack("", log))[0] == FOUND, "its head counts them"
    attacks.fit(folder, log, keys=True)
    assert judge(book_of, folder, Attack("", log, insider=True))[0] == AGAINST


def test_the_same_seed_draws_the_same_attacks(book_of: Template, tmp_path: Path) -> None:
    drawn = []
    for twin in ("one", "other"):
        copy(book_of.folder, tmp_path / twin)
        drawn.append(attacks.draw(Random("twins"), tmp_path / twin))
    assert drawn[0] == drawn[1]
