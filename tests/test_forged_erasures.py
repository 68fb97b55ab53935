"""Whoever can write the databases undoes no erasure, brings none about, and has no receipt say what is not so."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from shutil import copy2
from typing import Any
from uuid import UUID

import msgpack
import pytest

import tallybook
from tallybook import Book, Erased
from tallybook.domain.errors import BookDamaged, BookError, KeyLost, Refused
from tallybook.domain.events import from_us
from tallybook.erasing import Erasing

from .postgres import run_sql
from .test_erasure import NAME, lived

DAY_US = 86_400_000_000
KEYS = "SELECT key_id, length(wrapped), destroyed FROM data_keys WHERE subject=?"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shop.book"


def opened(path: Path, **given: Any) -> Book:
    return tallybook.open(f"sqlite:///{path}", **given)


def run(path: Path, *statements: str | tuple[str, list[Any]], suffix: str = "") -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    with closing(sqlite3.connect(f"{path}{suffix}", timeout=10)) as raw, raw:
        for one in statements:
            found = raw.execute(*((one, []) if isinstance(one, str) else one)).fetchall()
    return found


def keys_of(path: Path, subject: UUID) -> list[tuple[int, int, int]]:
    """Of a subject's keys, in the file: id, how long what is wrapped is, the position on its tombstone."""
    return run(path, (KEYS, [subject.bytes]), suffix=".keys")


def trail_of(path: Path) -> str:
    """The table of the trail's index."""
    [(table,)] = run(path, "SELECT name FROM sqlite_master WHERE type='table' AND name GLOB 'trail__*'")
    return str(table)


def problem_of(book: Book) -> str | None:
    return book.audit.verify()[0].problem


def failing(book: Book) -> set[str]:
    return {one.name for one in book.doctor() if one.state == "failed"}


# ── the table erased ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_row_that_is_deleted_opens_nothing_in_a_process_that_has_the_key_still(path: Path) -> None:
    with (
        opened(path) as book,
        opened(path) as other,
        book.acting("agent:lin", purpose="support"),
        other.acting("agent:lin", purpose="support"),
    ):
        ada = lived(book)
        assert other.profiles.get(ada)["name"] == NAME  # and has the cipher from here on
        book.erasures.erase(ada, reason="gdpr-17")
        run(path, "DELETE FROM erased")
        with pytest.raises(BookDamaged, match="table erased"):
            other.profiles.get(ada)
        assert isinstance(book.profiles.get(ada)["name"], Erased)
        for one in (book, other):
            assert "table erased" in str(problem_of(one))
            assert "erasures" in failing(one)


@pytest.mark.parametrize(
    "altered",
    ["DELETE FROM erased", "UPDATE erased SET position=1", "UPDATE erased SET position=-5",
     "UPDATE erased SET key_id=7", "UPDATE erased SET subject=x'00'",
     "INSERT INTO erased SELECT subject, 9, position FROM erased"],
)  # fmt: skip
def test_the_table_is_made_anew_at_opening_and_old_keys_are_destroyed_again(path: Path, altered: str) -> None:
    with opened(path) as book, book.acting("agent:lin", purpose="support"):
        ada = lived(book)
    for name in ("keys", "wrapping-key"):
        copy2(f"{path}.{name}", f"{path}.{name}.old")
    with opened(path) as book, book.acting("agent:lin", purpose="support"):
        book.erasures.erase(ada, reason="gdpr-17")
        rows = list(book._core.app.log.erasures())
    for name in ("keys", "wrapping-key"):
        copy2(f"{path}.{name}.old", f"{path}.{name}")
    run(path, altered)
    with opened(path) as book, book.acting("agent:lin", purpose="support"):
        assert isinstance(book.profiles.get(ada)["name"], Erased)
        assert list(book._core.app.log.erasures()) == rows
        assert problem_of(book) is None
        assert not failing(book)
    assert [wrapped for _, wrapped, _ in keys_of(path, ada)] == [0]


def test_the_digest_can_t_be_put_back_without_the_keys_of_the_book(path: Path) -> None:
    with opened(path) as book, book.acting("agent:lin", purpose="support"):
        ada = lived(book)
        book.erasures.erase(ada, reason="gdpr-17")
        run(path, "DELETE FROM erased", "UPDATE head SET erased=x''")
        with pytest.raises(BookDamaged, match="MAC"):
            book.profiles.get(ada)
        assert "MAC" in str(problem_of(book))
    with opened(path) as book, book.acting("agent:lin", purpose="support"), pytest.raises(BookDamaged):
        book.profiles.get(ada)


def test_who_was_erased_in_part_and_as_a_whole_is_told_again_from_the_events(path: Path) -> None:
    now = [1_600_000_000_000_000]
    with opened(path, now_us=lambda: now[0]) as book, book.acting("agent:dpo", purpose="retention"):
        ada, bob = lived(book), book.customers.register(name="Bob", email="bob@example.org")
        book.retention.declare(
            "talk", "communication", purpose="service", legal_basis="contract", period=1, unit="days"
        )
        now[0] += 3 * DAY_US
        assert book.retention.sweep().partly == 1
        book.customers.record_interaction(ada, "visit")
        book.erasures.erase(bob, reason="gdpr-17")
        rows = list(book._core.app.log.erasures())
        assert len(rows) == 2
    run(path, "DELETE FROM erased")
    with opened(path, now_us=lambda: now[0]) as book:
        assert list(book._core.app.log.erasures()) == rows


def test_a_kill_before_the_key_is_destroyed_and_a_deleted_row_leave_no_key(path: Path) -> None:
    with opened(path) as book, book.acting("agent:lin", purpose="support"):
        ada = lived(book)
        book._erasing.record(ada, reason="gdpr-17")  # and no more: the process was killed
    run(path, "DELETE FROM erased")
    run(path, "UPDATE key_notes SET value=1000", suffix=".keys")
    opened(path).close()
    assert [wrapped for _, wrapped, _ in keys_of(path, ada)] == [0]


def test_a_note_that_is_far_ahead_keeps_no_key_from_being_destroyed(path: Path) -> None:
    with opened(path) as book, book.acting("agent:lin", purpose="support"):
        ada, bob = lived(book), book.customers.register(name="Bob")
        for ahead, one in ((1_000_000, ada), (book.position() + 1, bob)):
            run(path, f"UPDATE key_notes SET value={ahead}", suffix=".keys")
            assert "and so is the wrapping key" in book.erasures.erase(one, reason="gdpr-17").done["keys"]
            assert [wrapped for _, wrapped, _ in keys_of(path, one)] == [0]


FORGED = [
    "UPDATE data_keys SET destroyed=3, wrapped=x'' WHERE subject=?",
    "UPDATE data_keys SET destroyed=1000000, wrapped=x'' WHERE subject=?",
    "UPDATE data_keys SET destroyed=1000000, wrapped=x'', mac=(SELECT mac FROM data_keys ORDER BY mac DESC LIMIT 1) "
    "WHERE subject=?",
]


@pytest.mark.parametrize("forged", FORGED)
def test_a_tombstone_that_somebody_else_wrote_erases_nobody(
    path: Path, forged: str, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(path) as book, book.acting("agent:lin", purpose="support"):
        ada, bob = lived(book), book.customers.register(name="Bob", identifiers={"crm": "B-1"})
        book.erasures.erase(bob, reason="gdpr-17")
    for name in ("keys", "wrapping-key"):
        copy2(f"{path}.{name}", f"{path}.{name}.backup")
    secret = (path.parent / "shop.book.wrapping-key").read_bytes()
    [(events,)] = run(path, "SELECT COUNT(*) FROM stored_events")
    held = run(path, "SELECT * FROM claims ORDER BY 1")
    run(path, (forged, [ada.bytes]), suffix=".keys")
    run(path, "UPDATE key_notes SET value=1000000", suffix=".keys")

    def look() -> None:
        with opened(path) as book, book.acting("agent:lin", purpose="support"):
            assert book.erasures.all() == [bob]
            assert "keys" in failing(book)
            book.profiles.get(ada)

    with pytest.raises(BookDamaged, match=f"data key 1 of {ada.hex}"):  # by the opening, or by the read
        look()
    assert "keys" in {one.name for one in tallybook.doctor(f"sqlite:///{path}") if one.state == "failed"}
    assert (path.parent / "shop.book.wrapping-key").read_bytes() == secret
    assert run(path, "SELECT COUNT(*) FROM stored_events") == [(events,)]
    assert run(path, "SELECT * FROM claims ORDER BY 1") == held
    # As the error says: delete the row, and the values are lost; put it back, and they are there.
    run(path, ("DELETE FROM data_keys WHERE subject=?", [ada.bytes]), suffix=".keys")
    with opened(path) as book, book.acting("agent:lin", purpose="support"), pytest.raises(KeyLost):
        book.profiles.get(ada)
    assert not [one for one in caplog.records if "rotated" in one.message]
    copy2(f"{path}.keys.backup", f"{path}.keys")
    with opened(path) as book, book.acting("agent:lin", purpose="support"):
        assert book.profiles.get(ada)["name"] == NAME
        assert problem_of(book) is None


def test_a_tombstone_that_was_moved_is_made_anew_once_its_row_is_deleted(path: Path) -> None:
    with opened(path) as book, book.acting("agent:lin", purpose="support"):
        ada = lived(book)
        book.erasures.erase(ada, reason="gdpr-17")
    [(_, _, at)] = keys_of(path, ada)
    run(path, "UPDATE data_keys SET destroyed=destroyed+1", suffix=".keys")
    with pytest.raises(BookDamaged, match="tombstone"):
        opened(path)
    run(path, "DELETE FROM data_keys", suffix=".keys")
    with opened(path) as book, book.acting("agent:lin", purpose="support"):
        assert isinstance(book.profiles.get(ada)["name"], Erased)
        assert keys_of(path, ada) == [(1, 0, at)]
        assert not failing(book)


@pytest.mark.server
def test_nor_does_one_on_a_server(server_book_url: str) -> None:
    schema = server_book_url.rpartition("schema=")[2].partition("&")[0]
    with tallybook.open(server_book_url) as book, book.acting("agent:lin", purpose="support"):
        ada = lived(book)
        end = book.position()
    run_sql(f"UPDATE {schema}.data_keys SET destroyed=1000000, wrapped=''")
    run_sql(f"UPDATE {schema}.key_notes SET value=1000000")
    with tallybook.open(server_book_url) as book, book.acting("agent:lin", purpose="support"):
        assert (book.position(), book.erasures.all()) == (end, [])
        assert "keys" in failing(book)
        with pytest.raises(BookDamaged, match=f"data key 1 of {ada.hex}"):
            book.profiles.get(ada)


def test_who_erases_again_and_is_killed_in_between_forgets_nobody(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(path) as book, book.acting("agent:lin", purpose="support"):
        many = [book.customers.register(name=f"N{one}", identifiers={"crm": f"{one}"}) for one in range(6)]
    for name in ("", ".reads"):
        copy2(f"{path}{name}", f"{path}{name}.old")
    with opened(path) as book, book.acting("agent:lin", purpose="support"):
        for one in many:
            book.erasures.erase(one, reason="gdpr-17")
    for name in ("", ".reads"):
        copy2(f"{path}{name}.old", f"{path}{name}")
    real = Erasing._record
    calls: list[Any] = []

    def killed(self: Erasing, *args: Any, **given: Any) -> Any:
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(1)
        run_it = real.__get__(self, Erasing)
        del self.__dict__["_record"]  # where the command keeps itself for the next look-up
        return run_it(*args, **given)

    with monkeypatch.context() as patch:
        patch.setattr(Erasing, "_record", killed)
        with pytest.raises(KeyboardInterrupt):
            opened(path)
    with opened(path) as book, book.acting("agent:lin", purpose="support"):
        assert sorted(book.erasures.all()) == sorted(many)
        assert run(path, "SELECT * FROM claims") == []
        assert not failing(book)


@pytest.mark.parametrize("note", ["UPDATE key_notes SET value=0", "UPDATE key_notes SET value=1"])
def test_a_log_that_was_put_back_is_told_by_the_tombstones_whatever_the_note_says(path: Path, note: str) -> None:
    with opened(path) as book, book.acting("agent:lin", purpose="support"):
        ada = lived(book)
    for name in ("", ".reads"):
        copy2(f"{path}{name}", f"{path}{name}.old")
    with opened(path) as book, book.acting("agent:lin", purpose="support"):
        book.erasures.erase(ada, reason="gdpr-17")
    for name in ("", ".reads"):
        copy2(f"{path}{name}.old", f"{path}{name}")
    run(path, note, suffix=".keys")
    for _ in range(2):
        with opened(path) as book, book.acting("agent:lin", purpose="support"):
            assert book.erasures.all() == [ada]
            assert run(path, "SELECT * FROM claims") == []
            assert isinstance(book.profiles.get(ada)["name"], Erased)
            assert (problem_of(book), failing(book)) == (None, set())
            assert [one.action for one in book.audit.trail(ada)].count("customer.erased") == 1


def test_a_forged_erasure_destroys_no_key(path: Path) -> None:
    with opened(path) as book, book.acting("agent:lin", purpose="support"):
        ada = lived(book)
        book.customers.record_interaction(ada, "visit")
        last = book.position()
    [(state,)] = run(path, ("SELECT state FROM stored_events WHERE position=?", [last]))
    held = msgpack.unpackb(state)
    fields = ["gdpr-17", [1], 1, 0, None, None, None]
    forged = msgpack.packb([1, None, held[2], held[3], ada.bytes, held[5], *fields, None])
    run(
        path,
        ("UPDATE stored_events SET topic='customer.erased', state=? WHERE position=?", [forged, last]),
        ("INSERT INTO erased VALUES (?, 1, ?)", [ada.bytes, last]),
    )
    before = keys_of(path, ada)
    with pytest.raises(BookDamaged, match="table erased"):
        opened(path)
    assert keys_of(path, ada) == before
    run(path, "DELETE FROM erased")
    with opened(path) as book, book.acting("agent:lin", purpose="support"):
        assert "altered" in str(problem_of(book))
        with pytest.raises(BookError):
            book.erasures.receipt(ada)
    assert keys_of(path, ada) == before


# ── what acts by itself ─────────────────────────────────────────────────────────────────────────────────────────────

PLANTED = {
    "": [
        "CREATE TRIGGER planted AFTER INSERT ON erased BEGIN DELETE FROM erased; END",
        "CREATE VIEW planted AS SELECT * FROM claims",
    ],
    ".reads": ["CREATE TRIGGER planted AFTER INSERT ON access_records BEGIN SELECT 1; END"],
    ".keys": ["CREATE TRIGGER planted BEFORE INSERT ON data_keys BEGIN SELECT raise(ignore); END"],
}


@pytest.mark.parametrize(("suffix", "statement"), [(suffix, one) for suffix, some in PLANTED.items() for one in some])
def test_triggers_and_views_are_refused_at_opening_and_told(path: Path, suffix: str, statement: str) -> None:
    with opened(path) as book:
        assert problem_of(book) is None
        run(path, statement, suffix=suffix)
        assert any("planted" in str(one.problem) for one in book.audit.verify())
        assert "schema" in failing(book)
    with pytest.raises(BookDamaged, match="planted"):
        opened(path)
    assert "schema" in {one.name for one in tallybook.doctor(f"sqlite:///{path}") if one.state == "failed"}
    kind = statement.split()[1]
    run(path, f"DROP {kind} planted", suffix=suffix)
    with opened(path) as book:
        assert problem_of(book) is None


@pytest.mark.server
@pytest.mark.parametrize(
    "statement",
    ["CREATE VIEW {0}.planted AS SELECT * FROM {0}.claims",
     "CREATE RULE planted AS ON DELETE TO {0}.claims DO INSTEAD NOTHING",
     "CREATE POLICY planted ON {0}.erased USING (false)",
     "CREATE TRIGGER planted BEFORE UPDATE ON {0}.data_keys FOR EACH ROW "
     "EXECUTE FUNCTION suppress_redundant_updates_trigger()"],
)  # fmt: skip
def test_so_are_triggers_views_rules_and_policies_on_a_server(server_book_url: str, statement: str) -> None:
    schema = server_book_url.rpartition("schema=")[2].partition("&")[0]
    with tallybook.open(server_book_url) as book:
        assert problem_of(book) is None
        run_sql(statement.format(schema))
        assert "planted" in str(problem_of(book))
        assert "schema" in failing(book)
    with pytest.raises(BookDamaged, match="planted"):
        tallybook.open(server_book_url)


@pytest.mark.server
@pytest.mark.parametrize(
    ("statement", "told"),
    [("ALTER TABLE {0}.claims ADD CONSTRAINT mine CHECK (length(claim) > 0) NOT VALID", "constraint mine"),
     ("ALTER TABLE {0}.claims ENABLE ROW LEVEL SECURITY", "row security of claims"),
     ("CREATE TABLE {0}.mine () INHERITS ({0}.receipts)", "table mine that inherits from receipts"),
     ("CREATE INDEX mine ON {0}.receipts (length(digest))", "index mine"),
     ("CREATE INDEX mine ON {0}.receipts (digest) WHERE first_position > 3", "index mine"),
     ("ALTER TABLE {0}.receipts ALTER result SET DEFAULT decode('00', 'hex')", "default of receipts.result"),
     ("ALTER TABLE {0}.receipts ALTER first_position TYPE numeric", "type of receipts.first_position"),
     ("CREATE FUNCTION {0}.mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'", "function mine"),
     ("CREATE OPERATOR {0}.=== (LEFTARG=bytea, RIGHTARG=bytea, FUNCTION=byteaeq)", "operator ===")],
)  # fmt: skip
def test_so_is_all_else_that_a_server_calls_by_itself(server_book_url: str, statement: str, told: str) -> None:
    schema = server_book_url.rpartition("schema=")[2].partition("&")[0]
    with tallybook.open(server_book_url) as book:
        assert problem_of(book) is None
        run_sql(statement.format(schema))
        assert f"there is a {told} among" in str(problem_of(book))
        assert "schema" in failing(book)
    with pytest.raises(BookDamaged, match=re.escape(told)):
        tallybook.open(server_book_url)


@pytest.mark.server
def test_a_trigger_at_login_is_told_and_puts_no_table_before_the_book_s(server_book_url: str) -> None:
    schema = server_book_url.rpartition("schema=")[2].partition("&")[0]
    with tallybook.open(server_book_url) as book, book.acting("agent:lin", purpose="support"):
        ada = book.customers.register(name="Ada", identifiers={"crm": "1"})
        run_sql(
            f"CREATE FUNCTION public.act_{schema}() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN "
            f"IF to_regclass('{schema}.claims') IS NOT NULL THEN "
            f"CREATE TEMPORARY TABLE claims AS SELECT * FROM {schema}.claims WHERE false; END IF; END$$"
        )
        from tallybook.adapters.postgres import PostgresDatabase

        try:
            run_sql(f"CREATE EVENT TRIGGER at_login ON login EXECUTE FUNCTION public.act_{schema}()")
            with pytest.raises(BookDamaged, match="event trigger at_login"):
                tallybook.open(server_book_url)
            # A connection that is new, in a book that was open before.
            database = PostgresDatabase(server_book_url)
            with closing(database):
                assert database.rows("SELECT pg_my_temp_schema()") != [(0,)], "it was there"
                assert [holder for (holder,) in database.rows("SELECT holder FROM claims")] == [ada.bytes]
            assert "at_login" in str(problem_of(book))
        finally:
            run_sql("DROP EVENT TRIGGER IF EXISTS at_login")
            run_sql(f"DROP FUNCTION public.act_{schema}()")


def test_no_receipt_says_that_a_key_is_destroyed_which_is_there(path: Path) -> None:
    with opened(path) as book, book.acting("agent:lin", purpose="support"):
        ada = lived(book)
        for when in ("INSERT", "UPDATE"):
            run(
                path,
                f"CREATE TRIGGER planted_{when} BEFORE {when} ON data_keys WHEN new.destroyed<>0 "
                "BEGIN SELECT raise(ignore); END",
                suffix=".keys",
            )
        for _ in range(2):
            with pytest.raises(BookDamaged, match="did not"):
                book.erasures.erase(ada, reason="gdpr-17")
        run(path, "DROP TRIGGER planted_INSERT", "DROP TRIGGER planted_UPDATE", suffix=".keys")
        assert "not destroyed yet" in book.erasures.receipt(ada).done["keys"]  # a question does nothing
        assert "and so is the wrapping key" in book.erasures.erase(ada, reason="gdpr-17").done["keys"]
    assert [wrapped for _, wrapped, _ in keys_of(path, ada)] == [0]


# ── what an erasure rests on ────────────────────────────────────────────────────────────────────────────────────────


def altered_schedule(path: Path, alter: Callable[[Any], Any]) -> None:
    """Alter the fields of the stored schedule."""
    [(position, state)] = run(path, "SELECT position, state FROM stored_events WHERE topic='book.retention_declared'")
    anew = msgpack.packb([alter(one) for one in msgpack.unpackb(state)])
    assert anew != state
    run(path, ("UPDATE stored_events SET state=? WHERE position=?", [anew, position]))


def test_a_sweep_by_an_altered_schedule_erases_nobody(path: Path) -> None:
    now = [1_600_000_000_000_000]
    with opened(path, now_us=lambda: now[0]) as book, book.acting("agent:lin", purpose="support"):
        ada = lived(book)
        book.retention.declare("all", "all", purpose="service", legal_basis="contract", period=10, unit="years")
    altered_schedule(path, lambda one: "days" if one == "years" else one)
    now[0] += 30 * DAY_US
    before = keys_of(path, ada)
    with opened(path, now_us=lambda: now[0]) as book, book.acting("job:night", purpose="retention"):
        with pytest.raises(BookDamaged, match="Nothing is erased"):
            book.retention.sweep()
        assert isinstance(book.profiles.get(ada)["name"], str)
    assert keys_of(path, ada) == before


def invoices(book: Book) -> None:
    book.retention.declare(
        "invoices", "transaction", purpose="tax", legal_basis="tax-law", period=10, unit="years", action="keep"
    )


def test_an_erasure_rests_on_no_altered_schedule(path: Path) -> None:
    with opened(path) as book, book.acting("agent:lin", purpose="support"):
        ada = lived(book)
        invoices(book)
    altered_schedule(path, lambda one: "preference" if one == "transaction" else one)
    before = keys_of(path, ada)
    with opened(path) as book, book.acting("agent:lin", purpose="support"):
        with pytest.raises(BookDamaged, match="this rests on"):
            book.erasures.erase(ada, reason="gdpr-17")
        assert problem_of(book) is not None
    assert keys_of(path, ada) == before


def test_what_must_be_kept_is_kept_whatever_the_index_of_the_trail_lacks(path: Path) -> None:
    with opened(path) as book, book.acting("agent:lin", purpose="support"):
        ada = lived(book)
        invoices(book)
        assert book.audit.trail(ada)
        table = trail_of(path)
        run(path, (f"DELETE FROM {table} WHERE subject=?", [ada.bytes]))
        assert book.erasures.erase(ada, reason="gdpr-17").kept == 1


def test_a_sweep_on_an_index_that_lacks_events_erases_nobody(path: Path) -> None:
    now = [1_600_000_000_000_000]
    with opened(path, now_us=lambda: now[0]) as book, book.acting("agent:lin", purpose="retention"):
        ada = lived(book)
        invoices(book)
        book.retention.declare(
            "talk", "communication", purpose="service", legal_basis="contract", period=1, unit="days"
        )
        now[0] += 3 * DAY_US
        bought = next(one.position for one in book.audit.trail(ada) if "purchase" in one.action)
        table = trail_of(path)
        run(path, (f"DELETE FROM {table} WHERE subject=? AND position=?", [ada.bytes, bought]))
        with pytest.raises(BookDamaged, match=f"lacks the event at position {bought}"):
            book.retention.sweep()
        assert len(keys_of(path, ada)) == 1
        book.projections.rebuild("trail")
        assert book.retention.sweep().partly == 1
        assert book.profiles.get(ada)["name"] == NAME


def test_evidence_shows_what_the_index_of_the_trail_lacks(path: Path) -> None:
    now = [1_600_000_000_000_000]
    with opened(path, now_us=lambda: now[0]) as book, book.acting("agent:lin", purpose="support"):
        ada = lived(book)
        book.customers.grant_consent(ada, "marketing", source="web", text_version="v1")
        book.customers.withdraw_consent(ada, "marketing")
        at = from_us(now[0])
        now[0] += DAY_US
        before = book.audit.replay(ada, at).document, book.audit.subject_report(ada).data
        table = trail_of(path)
        run(path, (f"DELETE FROM {table} WHERE subject=?", [ada.bytes]))
        assert book.audit.replay(ada, at).document == before[0]
        after = book.audit.subject_report(ada).data
        assert {name: value for name, value in after.items() if name in ("consents", "privacy")} == {
            name: value for name, value in before[1].items() if name in ("consents", "privacy")
        }


# ── the end of the calendar ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("period", "unit"), [(36_500, "years"), (36_500 * 12, "months"), (8000, "years")])
def test_a_period_that_ends_after_the_year_9999_is_refused(path: Path, period: int, unit: str) -> None:
    with opened(path) as book, book.acting("agent:lin", purpose="support"):
        with pytest.raises(Refused) as refused:
            book.retention.declare("x", "all", purpose="tax", legal_basis="tax-law", period=period, unit=unit)
        assert refused.value.code == "invalid_argument"


def test_what_lasts_longer_than_the_calendar_is_told_as_its_end(path: Path) -> None:
    now = [1_600_000_000_000_000]
    with opened(path, now_us=lambda: now[0]) as book, book.acting("agent:lin", purpose="support"):
        book.retention.declare(
            "long", "transaction", purpose="tax", legal_basis="tax-law", period=7900, unit="years", action="keep"
        )
        now[0] += 200 * 365 * DAY_US
        ada = lived(book)
        receipt = book.erasures.erase(ada, reason="gdpr-17")
        assert receipt.kept == 1
        assert receipt.kept_until == "9999-12-31T23:59:59.999999Z"
        assert "9999-12-31" in book.audit.review("erasure-evidence").json()
