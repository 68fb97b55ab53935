"""What somebody does who can write the book's files: drawn, and done to a copy."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from tests.heads import Head, fit_head, head_in, key_of, put_head
from tests.hidden import hide

import tallybook
from tallybook.adapters import merkle
from tallybook.adapters.notes import Checkpoint, Signer, made

from .victim import BOOK, NOW_US, OLDER, Clock, Ids, opened

KEYS, READS = f"{BOOK}.keys", f"{BOOK}.reads"
DATABASES = (BOOK, KEYS, READS)
SECRETS = (f"{BOOK}.wrapping-key", f"{BOOK}.signing-key")
LOGS = {"events": (BOOK, "stored_events"), "reads": (READS, "access_records")}


@dataclass(frozen=True, slots=True)
class Attack:
    """What was done. `position`: the first of `log` that is not what was recorded, where that is one row; `insider`: he
    made all that lies in the book fit again, so that only a checkpoint kept elsewhere can tell."""

    what: str
    log: str | None = None
    position: int | None = None
    insider: bool = False


Way = Callable[[Random, Path], Attack | None]
"""Does it to a book's folder; None, if it came to nothing."""


def run(file: Path, *statements: str | tuple[str, list[Any]]) -> int:
    """Execute statements on a file, past its checks; how many rows they changed."""
    with closing(sqlite3.connect(file)) as raw, raw:
        raw.execute("PRAGMA ignore_check_constraints=ON")
        changed = 0
        for one in statements:
            statement, values = one if isinstance(one, tuple) else (one, [])
            changed += max(0, raw.execute(statement, values).rowcount)
        return changed


def rows(file: Path, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """What a file answers."""
    with closing(sqlite3.connect(file)) as raw:
        return raw.execute(statement, values).fetchall()


def tables(file: Path) -> list[str]:
    """Tables of a file that hold something."""
    names = [name for (name,) in rows(file, "SELECT name FROM sqlite_master WHERE type='table' ORDER BY name")]
    return [name for name in names if rows(file, f"SELECT 1 FROM {name} LIMIT 1")]


def columns(file: Path, table: str) -> list[str]:
    """A table's columns."""
    return [row[1] for row in rows(file, f"PRAGMA table_info({table})")]


def mutated(random: Random, value: object) -> object:
    """A value that is nearly this one, or another altogether."""
    if isinstance(value, bytes) and value and random.random() < 0.8:
        how = random.randrange(4)
        at = random.randrange(len(value))
        if how == 0:
            return value[:at] + bytes([value[at] ^ 1 << random.randrange(8)]) + value[at + 1 :]
        if how == 1:
            return value[:at] + random.randbytes(1) + value[at + 1 :]
        return value[:at] if how == 2 else value + random.randbytes(1)
    if isinstance(value, str) and value and random.random() < 0.8:
        at = random.randrange(len(value))
        return value[:at] + random.choice("aZ0+/=\n. ") + value[at + 1 :]
    if isinstance(value, int) and random.random() < 0.8:
        return value + random.choice([-1, 1, 2, -2, 7, 256, -value, -2 * value, 1 << 40])
    return random.choice([None, "", b"", 0, 1, -1, "nonsense", b"nonsense", 2**63 - 1, 1.5])


# ── rows of the logs ────────────────────────────────────────────────────────────────────────────────────────────


def log_of(random: Random, folder: Path) -> tuple[str, Path, str, int]:
    """A log, with its file, table and length."""
    log = random.choice(["events", "events", "events", "reads"])
    name, table = LOGS[log]
    [(size,)] = rows(folder / name, f"SELECT MAX(position) FROM {table}")
    return log, folder / name, table, size


def flip(random: Random, folder: Path) -> Attack | None:
    """Alter one column of an event or of a record of a read."""
    log, file, table, size = log_of(random, folder)
    position = random.randrange(1, size + 1)
    told = flip_at(random, file, table, position)
    return None if told is None else Attack(told, log, position)


def flip_at(random: Random, file: Path, table: str, position: int) -> str | None:
    """Alter one column of the row at a position; what was done."""
    column = random.choice(["originator_id", "originator_version", "topic", "state", "state", "state"])
    [(value,)] = rows(file, f"SELECT {column} FROM {table} WHERE position=?", position)
    new = mutated(random, value)
    if new == value and type(new) is type(value):
        return None
    run(file, (f"UPDATE {table} SET {column}=? WHERE position=?", [new, position]))
    return f"{table}.{column} at {position}: {value!r} to {new!r}"


def delete(random: Random, folder: Path) -> Attack | None:
    """Delete an event; the rest keep their positions, or move up."""
    log, file, table, size = log_of(random, folder)
    position = random.randrange(1, size + 1)
    run(file, (f"DELETE FROM {table} WHERE position=?", [position]))
    if random.random() < 0.5:
        for one in range(position + 1, size + 1):
            run(file, (f"UPDATE {table} SET position=position-1 WHERE position=?", [one]))
        return Attack(f"{table}: {position} deleted, the rest moved up", log, position)
    return Attack(f"{table}: {position} deleted", log, position)


def reorder(random: Random, folder: Path) -> Attack | None:
    """Let two events change places."""
    log, file, table, size = log_of(random, folder)
    one, other = sorted(random.sample(range(1, size + 1), 2))
    move = f"UPDATE {table} SET position=? WHERE position=?"
    run(file, (move, [size + 9, one]), (move, [one, other]), (move, [other, size + 9]))
    return Attack(f"{table}: {one} and {other} changed places", log, one)


def truncate(random: Random, folder: Path) -> Attack | None:
    """Cut the last events off; also with a head, and tiles, that fit."""
    log, file, table, size = log_of(random, folder)
    left = random.randrange(0, size)
    run(file, (f"DELETE FROM {table} WHERE position>?", [left]))
    how = random.randrange(3)
    if how:
        fit(folder, log, tiles=how > 1)
    return Attack(f"{table}: cut after {left}, {('alone', 'with its head', 'with head and tiles')[how]}", log)


def append(random: Random, folder: Path) -> Attack | None:
    """Add an event that was not recorded behind the head, before the first, or between."""
    log, file, table, size = log_of(random, folder)
    position = random.choice([size + 1, size + 1, size + random.randrange(2, 100), 0, -1])
    source = random.randrange(1, size + 1)
    copied = "originator_id, originator_version+1000, topic, state"
    insert = f"INSERT INTO {table} SELECT ?, {copied} FROM {table} WHERE position=?"
    run(file, (insert, [position, source]))
    if position == size + 1 and random.random() < 0.5:
        # The head is moved on, too, with a frontier that does not fit, or one that fits its size only.
        frontier = random.randbytes(32 * position.bit_count())
        run(file, ("UPDATE head SET position=?, frontier=?", [position, frontier]))
    return Attack(f"{table}: {source} again at {position}", log)


def add(random: Random, folder: Path) -> Attack | None:
    """Add an event of clear fields behind the last one, with a head that fits, and tiles: all but what wants a key."""
    log, file, table, size = log_of(random, folder)
    source = random.randrange(1, size + 1)
    add_row(file, table, source, random.randbytes(16))
    fit(folder, log, tiles=random.random() < 0.5)
    mac = random.choice(MACS)
    if mac is not None:
        run(file, (f"UPDATE head SET mac={mac} WHERE log=?", [table]))
    return Attack(f"{table}: {source} again at {size + 1}, with a head that fits and the MAC {mac or 'of before'}", log)


MACS = (None, "''", f"'{'0' * 64}'", "lower(hex(randomblob(32)))", "upper(mac)")
"""What somebody puts in the place of a MAC who can make none."""


def add_row(file: Path, table: str, source: int, stream: bytes) -> None:
    """Append a copy of a row, as the first of a stream of its own."""
    statement = (
        f"INSERT INTO {table} SELECT (SELECT MAX(position)+1 FROM {table}), ?, 1, topic, state "
        f"FROM {table} WHERE position=?"
    )
    run(file, (statement, [stream, source]))


def set_back(random: Random, folder: Path) -> Attack | None:
    """Put an older head back, which the book wrote once, and delete what came after it; also what tells of that."""
    log = random.choice(["events", "reads"])
    name, table = LOGS[log]
    everything = random.random() < 0.5
    told = cut(folder, log, head_in(folder / f"{name}{OLDER}", table), everything=everything)
    return Attack(told, log, insider=everything)


def cut(folder: Path, log: str, older: Head, *, everything: bool) -> str:
    """Put an older head in the place of a log's, and delete the newer rows; with `everything`, what tells of them too.
    What was done."""
    name, table = LOGS[log]
    position = older[0]
    run(folder / name, (f"DELETE FROM {table} WHERE position>?", [position]))
    put_head(folder / name, older, table)
    if everything:
        run(folder / name, ("DELETE FROM checkpoints WHERE log=? AND size>?", [table, position]))
        fit_tiles(folder, log)
    return f"{table}: the head of position {position} put back, {'all' if everything else 'the rows'} after it deleted"


def duplicate(random: Random, folder: Path) -> Attack | None:
    """Put a copy of an event in the place of another."""
    log, file, table, size = log_of(random, folder)
    source, target = random.sample(range(1, size + 1), 2)
    [(topic, state)] = rows(file, f"SELECT topic, state FROM {table} WHERE position=?", source)
    if [(topic, state)] == rows(file, f"SELECT topic, state FROM {table} WHERE position=?", target):
        return None
    run(file, (f"UPDATE {table} SET topic=?, state=? WHERE position=?", [topic, state, target]))
    return Attack(f"{table}: {source} copied over {target}", log, target)


# ── any table ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Held:
    """A table that is no log, and one of its columns."""

    file: Path
    table: str
    names: list[str]
    column: int
    rows: list[tuple[Any, ...]]

    @property
    def called(self) -> str:
        """How it is told of."""
        return f"{self.file.name} {self.table}.{self.names[self.column]}"

    def where(self, row: tuple[Any, ...]) -> tuple[str, list[Any]]:
        """What picks a row."""
        return " AND ".join(f"{name} IS ?" for name in self.names), list(row)

    def put(self, row: tuple[Any, ...], value: object) -> tuple[Any, ...]:
        """Put a value into a row's column; the row as it is then."""
        where, values = self.where(row)
        set_to = f"UPDATE OR ABORT {self.table} SET {self.names[self.column]}=? WHERE {where}"
        run(self.file, (set_to, [value, *values]))
        return (*row[: self.column], value, *row[self.column + 1 :])

    def delete(self, row: tuple[Any, ...]) -> None:
        """Delete a row."""
        where, values = self.where(row)
        run(self.file, (f"DELETE FROM {self.table} WHERE {where}", values))


def table_of(random: Random, folder: Path) -> Held:
    """A column of a table that is no log, with its rows."""
    while True:
        file = folder / random.choice(DATABASES)
        table = random.choice(tables(file))
        if table not in ("stored_events", "access_records"):
            names = columns(file, table)
            return Held(file, table, names, random.randrange(len(names)), rows(file, f"SELECT * FROM {table}"))


def cell(random: Random, folder: Path) -> Attack | None:
    """Alter a cell of any table."""
    held = table_of(random, folder)
    row = random.choice(held.rows)
    value = row[held.column]
    new = mutated(random, value)
    if new == value and type(new) is type(value):
        return None
    held.put(row, new)
    return Attack(f"{held.called}: {value!r} to {new!r}")


def exchange(random: Random, folder: Path) -> Attack | None:
    """Let two rows of any table exchange a value: both are plausible."""
    held = table_of(random, folder)
    if len(held.rows) < 2:
        return None
    one, other = random.sample(held.rows, 2)
    left, right = one[held.column], other[held.column]
    if left == right:
        return None
    held.delete(one)
    held.put(other, left)
    listed = ", ".join("?" for _ in one)
    values = [*one[: held.column], right, *one[held.column + 1 :]]
    run(held.file, (f"INSERT INTO {held.table} VALUES ({listed})", values))
    return Attack(f"{held.called}: {left!r} and {right!r} exchanged")


def delete_rows(random: Random, folder: Path) -> Attack | None:
    """Delete rows of any table, or all of them."""
    held = table_of(random, folder)
    if random.random() < 0.1:
        run(held.file, f"DELETE FROM {held.table}")
        return Attack(f"{held.file.name} {held.table}: emptied")
    gone = random.sample(held.rows, random.randrange(1, min(3, len(held.rows)) + 1))
    for row in gone:
        held.delete(row)
    return Attack(f"{held.file.name} {held.table}: rows deleted: {gone!r}")


def forged(random: Random, folder: Path) -> Attack | None:
    """Add a row to any table that is nearly one that is there: a claim, a receipt, an erasure, a snapshot, a key."""
    held = table_of(random, folder)
    row = random.choice(held.rows)
    new = mutated(random, row[held.column])
    listed = ", ".join("?" for _ in row)
    values = [*row[: held.column], new, *row[held.column + 1 :]]
    run(held.file, (f"INSERT INTO {held.table} VALUES ({listed})", values))
    return Attack(f"{held.called}: a row added, with {new!r} for {row[held.column]!r}")


def take_back(random: Random, folder: Path) -> Attack | None:
    """Undo erasures where the table of them tells, or bring one about: with what the head tells of it, or without."""
    file = folder / BOOK
    there = rows(file, "SELECT subject, key_id, position FROM erased")
    [(position,)] = rows(file, "SELECT position FROM head WHERE log='stored_events'")
    told = random.choice(["deleted", "moved", "another key", "a living one"])
    if told == "a living one":
        gone = {subject for subject, _, _ in there}
        living = [one for (one,) in rows(folder / KEYS, "SELECT subject FROM data_keys ORDER BY 1") if one not in gone]
        run(file, ("INSERT INTO erased VALUES (?, 1, ?)", [random.choice(living), random.randrange(1, position + 1)]))
    elif not there:
        return None
    else:
        subject, key_id, at = random.choice(there)
        change = {
            "deleted": "DELETE FROM erased",
            "moved": f"UPDATE OR REPLACE erased SET position={random.choice([1, at - 1, at + 1, -at])}",
            "another key": f"UPDATE OR REPLACE erased SET key_id={key_id + random.randrange(1, 4)}",
        }[told]
        run(file, (f"{change} WHERE subject=? AND key_id=?", [subject, key_id]))
    if random.random() < 0.3:
        run(file, ("UPDATE head SET erased=? WHERE log='stored_events'", [random.choice([b"", random.randbytes(32)])]))
        told += ", and the digest in the head altered"
    if random.random() < 0.3:
        run(folder / KEYS, ("UPDATE key_notes SET value=?", [random.choice([0, position, position + 1000])]))
        told += ", and the note of what was followed"
    return Attack(f"erased: {told}")


def bury(random: Random, folder: Path) -> Attack | None:
    """Make a key's row a tombstone, or move one: as if the book had destroyed it, and its log knew nothing."""
    file = folder / KEYS
    subject, key_id, was = random.choice(rows(file, "SELECT subject, key_id, destroyed FROM data_keys ORDER BY 1, 2"))
    [(head,)] = rows(folder / BOOK, "SELECT position FROM head WHERE log='stored_events'")
    at = random.choice([1, random.randrange(1, head + 1), head + 1, head + 1000])
    if at == was:
        return None
    macs = [mac for (mac,) in rows(file, "SELECT DISTINCT mac FROM data_keys ORDER BY 1")]
    mac = random.choice([b"", random.randbytes(32), *macs])
    run(
        file,
        (
            "UPDATE data_keys SET destroyed=?, wrapped=x'', mac=? WHERE subject=? AND key_id=?",
            [at, mac, subject, key_id],
        ),
        ("UPDATE key_notes SET value=?", [random.choice([0, head, head + 1_000_000])]),
    )
    return Attack(f"data_keys: a tombstone of {subject.hex()} at {at}, which was {was}")


def plant(random: Random, folder: Path) -> Attack | None:
    """Have the database itself do something: a trigger on any table, or a view beside them."""
    file = folder / random.choice(DATABASES)
    table = random.choice(tables(file))
    what = random.choice(["SELECT 1", "SELECT raise(ignore)", f"DELETE FROM {table}"])
    when = f"{random.choice(['BEFORE', 'AFTER'])} {random.choice(['INSERT', 'UPDATE', 'DELETE'])}"
    trigger = f"CREATE TRIGGER planted {when} ON {table} BEGIN {what}; END"
    statement = random.choice([trigger, f"CREATE VIEW planted AS SELECT * FROM {table}"])
    run(file, statement)
    return Attack(f"{file.name}: {statement}")


# ── bytes of files ──────────────────────────────────────────────────────────────────────────────────────────────


def page(random: Random, folder: Path) -> Attack | None:
    """Alter bytes of a file's pages, past the database."""
    file = folder / random.choice([*DATABASES, *SECRETS])
    data = bytearray(before := file.read_bytes())
    how = random.randrange(6) if file.name in DATABASES else random.randrange(3)
    size = 4096
    at = random.randrange(len(data))
    count = max(1, len(data) // size)
    first, second = (random.randrange(count) * size for _ in range(2))
    if how <= 1:
        data[at] ^= 1 << random.randrange(8)
    elif how == 2:
        wide = min(random.randrange(1, 64), len(data) - at)
        data[at : at + wide] = random.randbytes(wide)
    elif how == 3:
        data[first : first + size], data[second : second + size] = (
            data[second : second + size],
            data[first : first + size],
        )
    elif how == 4:
        data[first : first + size] = bytes(size)
    else:
        del data[at:]
    if bytes(data) == before:
        return None
    file.write_bytes(data)
    return Attack(f"{file.name}: {('a bit', 'a bit', 'bytes', 'two pages', 'a page zeroed', 'cut')[how]} at {at}")


# ── insiders ────────────────────────────────────────────────────────────────────────────────────────────────────


def fit(folder: Path, log: str, *, tiles: bool = True, keys: bool = False) -> None:
    """Have a log's head, and its tiles, say what its rows give now; with the book's keys, its MAC too."""
    name, table = LOGS[log]
    fit_head(folder / name, key_of(folder / BOOK) if keys else None, table)
    if tiles:
        fit_tiles(folder, log)


def fit_tiles(folder: Path, log: str) -> None:
    """Have a log's tiles say what its rows give now."""
    name, table = LOGS[log]
    file = folder / name
    [(origin,)] = rows(folder / BOOK, "SELECT value FROM book WHERE name='origin'")
    origin = origin.decode() if isinstance(origin, bytes) else origin
    held = rows(
        file, f"SELECT position, originator_id, originator_version, topic, state FROM {table} ORDER BY position"
    )
    hashes = merkle.row_hashes(origin, held)
    statements: list[tuple[str, list[Any]]] = [("DELETE FROM tiles WHERE log=?", [table])]
    level = 0
    while hashes:
        for tile in range(0, len(hashes), merkle.TILE):
            packed = b"".join(hashes[tile : tile + merkle.TILE])
            statements.append(("INSERT INTO tiles VALUES (?,?,?,?)", [table, level, tile // merkle.TILE, packed]))
        whole = len(hashes) // merkle.TILE
        hashes = [merkle.whole_root(hashes[one * merkle.TILE : (one + 1) * merkle.TILE]) for one in range(whole)]
        level += 1
    run(file, *statements)


def insider(random: Random, folder: Path) -> Attack | None:
    """Alter, delete, move or cut off events, then rewrite all that tells of it, with all keys; and sign again."""
    way = random.choice([flip, flip, delete, reorder, truncate, duplicate])
    try:
        done = way(random, folder)
    except sqlite3.IntegrityError:
        return None
    if done is None or done.log is None:
        return None
    name, table = LOGS[done.log]
    held = rows(folder / name, f"SELECT position FROM {table} ORDER BY position")
    for number, (position,) in enumerate(held, 1):
        if number != position:
            run(folder / name, (f"UPDATE {table} SET position=? WHERE position=?", [number, position]))
    run(folder / name, ("DELETE FROM checkpoints WHERE log=?", [table]))
    fit(folder, done.log, keys=True)
    sign = random.random() < 0.7
    if sign:
        try:
            with opened(folder, Clock(NOW_US - 1_000_000), Ids("insider")) as book:
                book.audit.checkpoint(done.log)
        except tallybook.TallybookError:
            sign = False  # the book is not opened any more: the judge will meet the same
    return Attack(f"{done.what}; rewritten{', signed again' if sign else ''}", done.log, insider=True)


def half_an_insider(random: Random, folder: Path) -> Attack | None:
    """The same without any key: checkpoints stay as they are, and so does the head's MAC."""
    way = random.choice([flip, flip, delete, reorder, duplicate])
    done = way(random, folder)
    if done is None or done.log is None:
        return None
    name, table = LOGS[done.log]
    if [one for (one,) in rows(folder / name, f"SELECT position FROM {table} ORDER BY position")] != list(
        range(1, len(rows(folder / name, f"SELECT 1 FROM {table}")) + 1)
    ):
        return None
    fit(folder, done.log, tiles=random.random() < 0.5)
    return Attack(f"{done.what}; head rewritten", done.log)


def name_another_key(random: Random, folder: Path) -> Attack | None:
    """Exchange what the book notes of its keys for something that makes sense; also with checkpoints signed by the key
    that it names then."""
    file = folder / BOOK
    [(origin,)] = rows(file, "SELECT value FROM book WHERE name='origin'")
    change = "UPDATE book SET value=? WHERE name=?"
    if random.random() < 0.4:
        name = random.choice(["wrapping key", "lookup key", "mac"])
        run(file, (change, [random.randbytes(16 if name == "wrapping key" else 32).hex(), name]))
        return Attack(f"another {name} noted", None)
    own = Signer.new(origin)
    run(file, (change, [own.vkey, "vkey"]))
    sign = random.random() < 0.7
    for name, table in LOGS.values() if sign else ():
        called = origin if table == "stored_events" else f"{origin}/reads"
        for size, signed_us, root in rows(folder / name, "SELECT size, signed_us, root FROM checkpoints"):
            told = Checkpoint(called, size, root)
            note = made(told.text, [own.named(called).sign(told.text), own.cosign(told.text, signed_us // 1_000_000)])
            run(
                folder / name,
                ("UPDATE checkpoints SET note=? WHERE size=? AND signed_us=?", [note, size, signed_us]),
            )
    return Attack(f"another vkey noted{', which signed all checkpoints' if sign else ''}", None)


def unsigned(random: Random, folder: Path) -> Attack | None:
    """Put a row among the checkpoints that nobody signed: with a root that is true or not, and a note of another."""
    name, table = LOGS[random.choice(list(LOGS))]
    file = folder / name
    position, frontier, *_ = head_in(file, table)
    there = rows(file, "SELECT size, signed_us, root, note FROM checkpoints WHERE log=?", table)
    if not there:
        return None
    size, signed_us, root, note = random.choice(there)
    if random.random() < 0.5:
        size, root = position, merkle.Frontier(position, frontier).root()
    signed_us += random.choice([-1, 1]) * random.randrange(1_000_000, 10**12)
    note = random.choice(["", note])
    run(file, ("INSERT INTO checkpoints VALUES (?,?,?,?,?,x'','')", [table, size, signed_us, root, note]))
    return Attack(f"a row for {size} leaves at {signed_us} among the checkpoints of {table}")


def unlisted(random: Random, folder: Path) -> Attack | None:
    """Have the index by which streams are read not lead to some rows, or to others by their name."""
    log = random.choice(list(LOGS))
    name, table = LOGS[log]
    file = folder / name
    [(least, last)] = rows(file, f"SELECT MIN(position), MAX(position) FROM {table}")
    if last is None:
        return None
    first = random.randint(least, last)
    which = random.choice([f"position={first}", f"position>={first}"])
    instead = random.choice([[], ["originator_id=randomblob(16)"]])
    hide(file, table, which, *instead)
    by_another = " but by another name" if instead else ""
    return Attack(f"the index of {table} does not lead to {which}{by_another}", log, first)


WAYS: dict[str, tuple[int, Way]] = {
    "alter a row of a log": (16, flip),
    "delete a row of a log": (8, delete),
    "reorder rows of a log": (8, reorder),
    "truncate a log": (6, truncate),
    "append to a log": (6, append),
    "append to a log, with a head that fits": (6, add),
    "put an older head of a log back": (4, set_back),
    "copy a row over another": (6, duplicate),
    "alter a cell of a table": (16, cell),
    "exchange cells of a table": (8, exchange),
    "delete rows of a table": (6, delete_rows),
    "forge a row of a table": (8, forged),
    "take an erasure back, or forge one": (6, take_back),
    "take a key for destroyed": (4, bury),
    "plant a trigger or a view": (4, plant),
    "hide rows from an index": (4, unlisted),
    "add a checkpoint that nobody signed": (4, unsigned),
    "alter bytes of a file": (14, page),
    "name another key": (4, name_another_key),
    "rewrite a log without the keys": (6, half_an_insider),
    "rewrite everything with all keys": (6, insider),
}
"""Kinds of attacks, with how often they are drawn."""


def draw(random: Random, folder: Path) -> tuple[str, Attack] | None:
    """Attack a book; None, if it came to nothing, and the folder is to be copied anew."""
    [kind] = random.choices(list(WAYS), [weight for weight, _ in WAYS.values()])
    try:
        done = WAYS[kind][1](random, folder)
    except (sqlite3.IntegrityError, OverflowError):
        return None  # the database itself does not take it
    return None if done is None else (kind, done)
