"""A book on stores that a host puts together itself: `tallybook.open(Storage(…))`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import cast
from uuid import UUID

import pytest
from eventsourcing.persistence import IntegrityError

import tallybook
from tallybook import Book
from tallybook.adapters.keys import KeyName, KeyStore
from tallybook.adapters.log import log_of
from tallybook.adapters.sqlite import SQLiteDatabase
from tallybook.adapters.storage import READS_TABLE, Storage
from tallybook.domain.errors import BookClosed
from tallybook.testing.conformance import KeyStoreSuite

GONE = "gone "


def path_of(name: KeyName) -> str:
    return f"{name[0]}/{name[1]}"


class Vault:
    """A key store of somebody else's: rows of hex in a database of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open = True
        with closing(self._connect()) as connection, connection:
            connection.execute("CREATE TABLE IF NOT EXISTS vault (name TEXT PRIMARY KEY, secret TEXT NOT NULL)")
            connection.execute("INSERT OR IGNORE INTO vault VALUES ('origin', 'vaulted')")
            connection.execute("INSERT OR IGNORE INTO vault VALUES ('lookup', lower(hex(randomblob(32))))")

    def _connect(self) -> sqlite3.Connection:
        if not self._open:
            raise BookClosed("The vault is closed.", path=str(self.path), remedy="Open it again.")
        return sqlite3.connect(self.path, timeout=30)

    def _secret(self, name: str) -> str | None:
        with closing(self._connect()) as connection:
            row = connection.execute("SELECT secret FROM vault WHERE name=?", (name,)).fetchone()
            return None if row is None else str(row[0])

    @property
    def origin(self) -> str:
        return self._secret("origin") or ""

    @property
    def lookup_key(self) -> bytes:
        return bytes.fromhex(self._secret("lookup") or "")

    def add(self, keys: Mapping[KeyName, bytes]) -> None:
        with closing(self._connect()) as connection, connection:
            try:
                connection.executemany(
                    "INSERT INTO vault VALUES (?,?)", [(path_of(one), key.hex()) for one, key in keys.items()]
                )
            except sqlite3.IntegrityError as error:
                raise IntegrityError("a subject has a key already") from error

    def get(self, names: Iterable[KeyName]) -> dict[KeyName, bytes]:
        found = self._found(names)
        return {name: bytes.fromhex(secret) for name, secret in found.items() if not secret.startswith(GONE)}

    def destroy(self, names: Iterable[KeyName], position: int) -> None:
        if position < 1:
            raise ValueError("no such position")
        with closing(self._connect()) as connection, connection:
            connection.executemany(
                "INSERT INTO vault VALUES (?,?) ON CONFLICT DO UPDATE SET secret=excluded.secret "
                "WHERE secret NOT LIKE 'gone %'",
                [(path_of(one), f"{GONE}{position}") for one in names],
            )

    def destroyed(self, names: Iterable[KeyName]) -> dict[KeyName, int]:
        found = self._found(names)
        return {name: int(secret[len(GONE) :]) for name, secret in found.items() if secret.startswith(GONE)}

    def tombstones(self) -> list[tuple[KeyName, int]]:
        with closing(self._connect()) as connection:
            held = connection.execute("SELECT name, secret FROM vault WHERE secret LIKE 'gone %'").fetchall()
        parts = ((*name.split("/"), int(secret[len(GONE) :])) for name, secret in held)
        return [((UUID(subject), int(key_id)), position) for subject, key_id, position in parts]

    def erased_up_to(self) -> int:
        return int(self._secret("erased up to") or 0)

    def set_erased_up_to(self, position: int) -> None:
        with closing(self._connect()) as connection, connection:
            connection.execute("INSERT OR REPLACE INTO vault VALUES ('erased up to', ?)", (str(position),))

    def count(self) -> int:
        with closing(self._connect()) as connection:
            [(count,)] = connection.execute("SELECT COUNT(*) FROM vault WHERE name LIKE '%/%' AND secret NOT LIKE 'g%'")
            return int(count)

    def _found(self, names: Iterable[KeyName]) -> dict[KeyName, str]:
        self._connect().close()
        found = {name: self._secret(path_of(name)) for name in names}
        return {name: secret for name, secret in found.items() if secret is not None}

    def wrapping(self) -> str | None:
        self._connect().close()
        return None

    def outlived(self, names: Iterable[KeyName] | None = None) -> bool:
        self._connect().close()
        return False

    def rotate(self) -> tuple[str, str]:
        self._connect().close()
        raise tallybook.BookError(
            "The vault has no wrapping key.", path=str(self.path), remedy="Nothing is to be done."
        )

    def close(self) -> None:
        self._open = False


class TestVault(KeyStoreSuite):
    def make(self, tmp_path: Path) -> Vault:
        return Vault(tmp_path / "vault")

    def reopen(self, store: KeyStore) -> Vault:
        return Vault(cast("Vault", store).path)


def vaulted(folder: Path) -> Storage:
    keys = Vault(folder / "vault")
    log, reads, models = (SQLiteDatabase(str(folder / name)) for name in ("log", "reads", "models"))
    for recorder in (log_of(log, keys), log_of(reads, keys, READS_TABLE)):
        recorder.create_table()
    return Storage("the vaulted book", keys.origin, log, reads, models, keys)


def use(book: Book) -> UUID:
    with book.acting("agent:lin", purpose="support"):
        book.rules.adopt("standard", effective_at="2020-01-01T00:00:00Z")
        ada = book.customers.register(name="Ada Lovelace")
        book.loyalty.enrol(ada)
        book.customers.record_purchase(ada, [{"sku": "a", "quantity": 1, "net_minor": 1000}], command_id="one")
        return ada


def test_a_book_on_a_hosts_own_stores_is_a_whole_book(tmp_path: Path) -> None:
    with tallybook.open(vaulted(tmp_path)) as book:
        ada = use(book)
    with tallybook.open(vaulted(tmp_path)) as book, book.acting("agent:lin", purpose="support"):
        assert "the vaulted book" in repr(book)
        again = book.customers.record_purchase(ada, [{"sku": "a", "quantity": 1, "net_minor": 1000}], command_id="one")
        assert again.points == book.loyalty.balance(ada) == 10
        assert book.profiles.get(ada)["name"] == "Ada Lovelace"
        assert [event.position for event in book.follow(timeout_s=0)] == list(range(1, book.position() + 1))
        assert book.replay().holds
        assert all(check.holds for check in book.audit.verify())
        assert book.projections.rebuild(processes=2)
        assert not [finding for finding in book.doctor() if finding.state == "failed"]
        with pytest.raises(tallybook.BookError, match="by the means of the place"):
            book.backup_keys(tmp_path / "copy")
    assert b"Lovelace" not in b"".join(file.read_bytes() for file in tmp_path.iterdir())


def test_what_it_is_opened_with_is_closed_with_it(tmp_path: Path) -> None:
    storage = vaulted(tmp_path)
    tallybook.open(storage).close()
    with pytest.raises(BookClosed):
        storage.keys.get([])
    with pytest.raises(BookClosed):
        storage.events.rows("SELECT 1")


def test_a_storage_has_its_places_already(tmp_path: Path) -> None:
    storage = vaulted(tmp_path)
    for option in ({"wrapping_key": "key"}, {"read_models": "sqlite:///models.db"}):
        with pytest.raises(tallybook.Refused) as refused:
            tallybook.open(storage, **option)  # type: ignore[arg-type]  # each of the two is a str
        assert refused.value.code == "invalid_argument"
        assert refused.value.values == {"argument": next(iter(option))}
    storage.close()


def test_with_other_keys_nothing_is_opened(tmp_path: Path) -> None:
    storage = vaulted(tmp_path)
    with tallybook.open(storage) as book:
        ada = use(book)
    with closing(sqlite3.connect(tmp_path / "vault")) as vault, vault:
        vault.execute("DELETE FROM vault WHERE name NOT IN ('origin', 'lookup')")
    with tallybook.open(vaulted(tmp_path)) as book, book.acting("agent:lin", purpose="support"):
        with pytest.raises(tallybook.KeyLost):
            book.profiles.get(ada)
        book._core.keyring.destroy([(ada, 1)], book.position())
        assert isinstance(book.profiles.get(ada)["name"], tallybook.Erased)


def test_with_another_look_up_key_the_book_takes_its_logs_for_somebody_elses(tmp_path: Path) -> None:
    with tallybook.open(vaulted(tmp_path)) as book:
        ada = use(book)
    (tmp_path / "vault").unlink()
    with tallybook.open(vaulted(tmp_path)) as book, book.acting("agent:lin", purpose="support"):
        for act in (
            lambda: book.profiles.get(ada),
            lambda: book.customers.register(name="Bob"),
            book.position,
        ):
            with pytest.raises(tallybook.BookDamaged, match="not made with the keys of this book"):
                act()
        problem = book.audit.verify()[0].problem or ""
        assert "not made with the keys of this book" in problem
