"""Power cuts: commands on a disk that forgets, cut at a random operation; then a look at what the disk may hold."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import tallybook
from tallybook import imports
from tallybook.adapters import checkpoints
from tallybook.adapters.key_tables import FileKeyStore
from tallybook.adapters.sqlite import SQLiteDatabase

from . import workload
from .checks import Finding, check
from .disk import Disk, failure
from .kills import LINES_PER_COMMIT, slice_of_master
from .ledger import ACTOR, PURPOSE, Ledger
from .report import Life

CUTS_PER_BOOK = 20
OPERATIONS_MAX = 1500
"""A cut falls within the first so many operations of a run that change the disk: some tens of commands."""


LOOK_S = 0.005
"""How far the clock by which checkpoints are due goes at each look at it."""


@contextmanager
def predictable(chance: random.Random) -> Iterator[None]:
    """Ids, keys and nonces from a seed, checkpoints due by a clock that goes on as it is looked at, and none of them
    signed by a thread beside, so that a run can be had again, write for write, however busy the machine is. (Kills
    meet the real clock and the thread.)"""
    looks = count()
    clock = SimpleNamespace(monotonic=lambda: next(looks) * LOOK_S)
    with (
        mock.patch.object(os, "urandom", chance.randbytes),
        mock.patch.object(checkpoints, "time", clock),
        mock.patch.object(checkpoints.TailTimer, "arm", return_value=None),
    ):
        yield


def forget_keys() -> mock._patch[Any]:
    """A mistake on purpose: the key file is not synced, so that events can be there without their keys."""
    make = FileKeyStore.__init__

    def make_hasty(store: FileKeyStore, *args: Any, **kwargs: Any) -> None:
        make(store, *args, **kwargs)
        store.database.synchronous = "OFF"
        for one in store.database.held():
            one.execute("PRAGMA synchronous=OFF")

    return mock.patch.object(FileKeyStore, "__init__", make_hasty)


def drop_too_early() -> mock._patch[Any]:
    """A mistake on purpose: a rotation drops the old wrapping key before what is under the new one is durable."""
    wrap = FileKeyStore._wrap_rows

    def wrap_and_drop(store: FileKeyStore, *args: Any) -> None:
        wrap(store, *args)
        store.source.replace(store.origin, store.source.read(store.origin)[:1])

    return mock.patch.object(FileKeyStore, "_wrap_rows", wrap_and_drop)


MISTAKES = {"keys": forget_keys, "rotations": drop_too_early}


def live(folder: Path, seed: str, cuts: int, synchronous: str = "FULL", mistake: str | None = None) -> Life:
    """One book from its making through some cuts, on the disk that each of them left."""
    assert SQLiteDatabase.__init__.__kwdefaults__ is not None
    with (
        mock.patch.object(imports, "ROWS_PER_COMMIT", LINES_PER_COMMIT),
        mock.patch.dict(SQLiteDatabase.__init__.__kwdefaults__, synchronous=synchronous),
        MISTAKES[mistake]() if mistake is not None else nullcontext(),
    ):
        return _live(folder, seed, cuts)


def _live(folder: Path, seed: str, cuts: int) -> Life:
    chance = random.Random(seed)
    life, ledger, platter = Life(seed), Ledger(imported=slice_of_master(folder)), dict[str, bytes]()
    clock = count(1_700_000_000_000_000, 1_000)
    with predictable(random.Random(f"{seed}/ids")):
        for number in range(1, cuts + 1):
            disk_folder, check_folder = (_filled(folder / name, platter) for name in ("disk", "check"))
            at = chance.randrange(1, chance.choice((30, 300, OPERATIONS_MAX)))
            disk = Disk(disk_folder, random.Random(f"{seed}/{number}"))

            def fails(kind: str, operation: int, disk: Disk = disk, at: int = at) -> None:
                if operation == at:
                    disk.power_off()
                    raise failure(kind)

            disk.fails = fails
            try:
                with disk.in_use():
                    _work(disk, f"sqlite:///{disk_folder / 'shop.book'}", ledger, chance, lambda: next(clock))
            except Exception as error:  # noqa: BLE001 - with the power off, any error will do; otherwise none
                if not disk.off:
                    life.add(
                        number, [Finding("broken", f"{type(error).__name__}: {error} (with the power on)")], "none"
                    )
                    break
            platter = disk.after_cut() | key_files(disk_folder)
            # The check works on a copy: the next run meets the disk as the cut left it, and may cut its recovery short.
            _filled(check_folder, platter)
            url = f"sqlite:///{check_folder / 'shop.book'}"
            findings = check(url, ledger, chance, thorough=number % 5 == 0 or number == cuts)
            life.add(number, findings, disk.last)
            if ledger.imported is not None and ledger.imported.under_way:
                life.moments["in the middle of an import"] += 1
                ledger.imported.under_way = False
            if findings:
                break
    life.acknowledged = sum(outcome.recorded for outcome in ledger.outcomes.values())
    return life


def _work(disk: Disk, url: str, ledger: Ledger, chance: random.Random, now_us: workload.Clock) -> None:
    """Commands until the power goes."""
    book = tallybook.open(url, now_us=now_us, checkpoint_s=workload.CHECKPOINT_S)
    try:
        workload.prepare(book)
        for deed in ledger.in_doubt():
            if deed.command_id is not None and not disk.off:
                ledger.end(deed.token, deed.run(book))
        while not disk.off:
            deed = workload.next_deed(chance, ledger)
            workload.perform(book, deed, ledger.begin, ledger.end)
            if deed.verb == "register" and chance.random() < 0.8:
                workload.enrol(book, ledger.customers[-1])
            if chance.random() < 0.03 and ledger.imported is not None:
                ledger.imported.under_way = True
                with book.acting(ACTOR, purpose=PURPOSE):
                    book.imports.cdnow(ledger.imported.path, progress=ledger.imported.reached)
                ledger.imported.under_way = False
            if chance.random() < 0.05:
                book.projections.catch_up()
            if chance.random() < 0.02:
                book.projections.rebuild(chance.choice(("profiles", "tiers", "trail", "balances")))
            if chance.random() < 0.03:
                # Closed and opened: the last connection brings the log into the file, and removes it.
                book.close()
                book = tallybook.open(url, now_us=now_us, checkpoint_s=workload.CHECKPOINT_S)
    finally:
        with suppress(Exception):
            book.close()


def _filled(folder: Path, files: Mapping[str, bytes]) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).touch(mode=0o600)
        (folder / name).write_bytes(data)
        (folder / name).chmod(0o600)
    return folder


def key_files(folder: Path) -> dict[str, bytes]:
    """Files that SQLite does not write: each is synced before anything rests on it."""
    return {one.name: one.read_bytes() for end in ("wrapping-key", "signing-key") for one in folder.glob(f"*.{end}")}
