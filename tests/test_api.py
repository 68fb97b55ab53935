"""The front door: what it exports, that every command is alike, and the contract of commands."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tools.reference import DESKS

import tallybook
from tallybook import Book, BookError, InvalidInput, Refused
from tallybook.commands import BoundCommand, command

from .conftest import MASTER, STANDARD

COMMANDS = sorted(
    (f"{path}.{name}", member)
    for path, desk in DESKS.items()
    for name, member in vars(desk).items()
    if isinstance(member, command)
)


def test_the_front_door_exports_a_sorted_list_and_all_of_it_is_there() -> None:
    assert tallybook.__all__ == sorted(tallybook.__all__)
    assert set(tallybook.__all__) == {*tallybook._HOMES, "__version__"}
    for name in tallybook.__all__:
        assert getattr(tallybook, name) is not None
    assert dir(tallybook) == tallybook.__all__
    with pytest.raises(AttributeError):
        _ = tallybook.nothing


@pytest.mark.parametrize(("name", "member"), COMMANDS, ids=[name for name, _ in COMMANDS])
def test_every_command_takes_an_effective_time_and_a_command_id(name: str, member: command[Any, Any, Any]) -> None:
    parameters = inspect.signature(member.function).parameters
    for wanted in ("effective_at", "command_id"):
        assert parameters[wanted].kind is inspect.Parameter.KEYWORD_ONLY, name
        assert parameters[wanted].default is None, name


def test_sweep_is_a_command_too(book: Book) -> None:
    assert isinstance(book.loyalty.sweep, BoundCommand)
    assert {"effective_at", "command_id"} <= set(inspect.signature(book.loyalty.sweep).parameters)


@pytest.mark.parametrize(
    "script",
    [
        "import tallybook.domain as it",
        "import tallybook as it",
        "import tallybook.projections.replay as it",
    ],
)
def test_importing_loads_no_adapter(script: str) -> None:
    check = (
        f"import sys; {script}; "
        "loaded = [name for name in sys.modules if name.startswith(('tallybook.adapters', 'sqlite3', 'cryptography', "
        "'eventsourcing', 'typer', 'rich'))]; print(loaded); sys.exit(bool(loaded))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def enrolled(book: Book) -> tuple[Book, Any]:
    book.rules.adopt(STANDARD, effective_at="2020-01-01T00:00:00Z")
    ada = book.customers.register(name="Ada Lovelace", effective_at="2024-01-01T00:00:00Z")
    book.loyalty.enrol(ada, effective_at="2024-01-01T00:00:00Z")
    return book, ada


def test_the_awaitable_form_does_the_same(enrolled: tuple[Book, Any]) -> None:
    book, ada = enrolled

    async def shop() -> tuple[Any, Any]:
        first, second = await asyncio.gather(
            book.customers.record_purchase.aio(ada, [{"sku": "a", "quantity": 1, "net_minor": 1000}], command_id="p-1"),
            book.customers.record_purchase.aio(ada, [{"sku": "a", "quantity": 1, "net_minor": 1000}], command_id="p-1"),
        )
        return first, second

    first, second = asyncio.run(shop())
    assert first == second
    assert book.loyalty.balance(ada) == first.points == 10


def test_a_repeated_command_gives_the_same_result_once(enrolled: tuple[Book, Any]) -> None:
    book, ada = enrolled
    lines = [{"sku": "a", "quantity": 1, "net_minor": 1000}]
    first = book.customers.record_purchase(ada, lines, command_id="p-1")
    position = book.position()
    assert book.customers.record_purchase(ada, lines, command_id="p-1") == first
    assert book.position() == position
    with pytest.raises(Refused) as reused:
        book.customers.record_purchase(ada, [{**lines[0], "quantity": 2}], command_id="p-1")
    assert reused.value.code == "command_id_reused"
    with pytest.raises(Refused) as other:
        book.customers.record_interaction(ada, "enquiry", command_id="p-1")
    assert other.value.code == "command_id_reused"


def test_a_refused_redemption_is_recorded_once_and_refused_alike(enrolled: tuple[Book, Any]) -> None:
    book, ada = enrolled
    with pytest.raises(Refused) as first:
        book.loyalty.redeem(ada, 100, reward="R1", command_id="x")
    position = book.position()
    with pytest.raises(Refused) as again:
        book.loyalty.redeem(ada, 100, reward="R1", command_id="x")
    assert book.position() == position
    assert (first.value.code, str(first.value)) == (again.value.code, str(again.value))
    assert type(first.value) is type(again.value)


@pytest.mark.parametrize("when", ["2024-01-01", "2024-01-01T00:00:00", "yesterday", 5])
def test_a_time_without_a_zone_is_refused(enrolled: tuple[Book, Any], when: Any) -> None:
    book, ada = enrolled
    with pytest.raises(Refused) as refused:
        book.customers.record_interaction(ada, "enquiry", effective_at=when)
    assert refused.value.code in ("naive_time", "invalid_argument")


def test_a_fact_of_the_future_is_refused_and_an_adoption_is_not(enrolled: tuple[Book, Any]) -> None:
    book, ada = enrolled
    with pytest.raises(Refused) as refused:
        book.customers.record_interaction(ada, "enquiry", effective_at="2999-01-01T00:00:00Z")
    assert refused.value.code == "effective_in_future"
    before = book.rules.in_force()
    assert book.rules.adopt(STANDARD, effective_at="2999-01-01T00:00:00Z") == "standard@1"
    assert book.rules.in_force() == before
    assert len(book.rules.adopted()) == 2


def test_offsets_are_understood(enrolled: tuple[Book, Any]) -> None:
    book, ada = enrolled
    book.customers.record_interaction(ada, "visit", effective_at="2024-06-01T01:00:00+08:00")
    assert book.profiles.get(ada).last_interaction_at == "2024-05-31T17:00:00Z"


def test_nothing_can_be_done_without_an_actor() -> None:
    with tallybook.open("memory:") as book:
        for attempt in (
            lambda: book.customers.register(name="Ada"),
            lambda: book.profiles.get("6f1a8c1e-0000-4000-8000-000000000000"),
            book.audit.trail,
            lambda: book.profiles.segments(system="crm"),
        ):
            with pytest.raises(Refused) as refused:
                attempt()
            assert refused.value.code == "acting_required"
        assert book.position() == 0


@pytest.mark.parametrize("actor", ["", "lin wang", "lin@example.org", "x" * 65])
def test_an_actor_is_a_surrogate(book: Book, actor: str) -> None:
    with pytest.raises(Refused) as refused, book.acting(actor, purpose="support"):
        pass
    assert refused.value.code == "invalid_argument"
    assert actor == "" or actor not in str(refused.value)


def test_the_inner_actor_counts_and_the_outer_one_comes_back(book: Book) -> None:
    with book.acting("agent:kim", purpose="audit", on_behalf_of="team:audit", channel="phone"):
        ada = book.customers.register(name="Ada")
    book.customers.record_interaction(ada, "enquiry")
    entries = book.audit.trail(ada)
    assert {(one.actor, one.on_behalf_of, one.purpose, one.channel) for one in entries[:2]} == {
        ("agent:kim", "team:audit", "audit", "phone")
    }
    assert entries[-1].actor == "agent:lin"


def test_a_context_that_is_left_late_brings_nobody_back(book: Book) -> None:
    first = book.acting("agent:kim", purpose="audit")
    first.__enter__()
    with book.acting("agent:ola", purpose="support"):
        first.__exit__(None, None, None)
        ada = book.customers.register(name="Ada")
    assert {entry.actor for entry in book.audit.trail(ada) if entry.log == "events"} == {"agent:ola"}


def test_two_books_have_each_its_own_actor(book: Book) -> None:
    with tallybook.open("memory:") as other, pytest.raises(Refused):
        other.customers.register(name="Ada")
    assert book.customers.register(name="Ada")


def test_known_at_tells_what_the_book_knew(enrolled: tuple[Book, Any]) -> None:
    book, ada = enrolled
    known = book.position()
    book.customers.record_purchase(
        ada, [{"sku": "a", "quantity": 1, "net_minor": 20_000}], effective_at="2024-02-01T00:00:00Z"
    )
    assert book.loyalty.balance(ada, as_of="2024-03-01") == 300
    assert book.loyalty.balance(ada, as_of="2024-03-01", known_at=known) == 0
    assert book.tiers.counts(as_of="2024-03-01") == {"gold": 1}
    assert book.tiers.counts(as_of="2024-03-01", known_at=known) == {"basic": 1}
    assert book.profiles.get(ada, as_of="2024-03-01").purchases == 1
    assert book.profiles.get(ada, as_of="2024-03-01", known_at=known).purchases == 0
    assert book.profiles.get(ada, as_of="2024-01-15").purchases == 0


def test_a_balance_counts_what_is_due_though_no_sweep_ran(enrolled: tuple[Book, Any]) -> None:
    book, ada = enrolled
    book.customers.record_purchase(
        ada, [{"sku": "a", "quantity": 1, "net_minor": 2_000}], effective_at="2024-01-10T00:00:00Z"
    )
    assert book.loyalty.balance(ada, as_of="2025-01-31") == 20
    assert book.loyalty.balance(ada, as_of="2025-02-02") == 0
    assert book.loyalty.balance(ada) == 0


def test_two_rule_sets_hold_one_after_the_other(enrolled: tuple[Book, Any], tmp_path: Any) -> None:
    book, ada = enrolled
    richer = tmp_path / "richer.toml"
    richer.write_text(
        STANDARD.read_text(encoding="utf-8")
        .replace('version = "1"', 'version = "2"')
        .replace("points = 1\n", "points = 3\n"),
        encoding="utf-8",
    )
    book.rules.adopt(richer, effective_at="2024-07-01T00:00:00Z")
    line = [{"sku": "a", "quantity": 1, "net_minor": 1_000}]
    assert book.customers.record_purchase(ada, line, effective_at="2024-06-30T23:59:59Z").points == 10
    assert book.customers.record_purchase(ada, line, effective_at="2024-07-01T00:00:00Z").points == 30
    assert [one.label for one in book.rules.adopted()] == ["standard@1", "standard@2"]
    assert book.replay().holds
    changed = tmp_path / "changed.toml"
    changed.write_text(STANDARD.read_text(encoding="utf-8").replace("points = 1\n", "points = 9\n"), encoding="utf-8")
    with pytest.raises(Refused) as refused:
        book.rules.adopt(changed)
    assert refused.value.code == "rule_set_adopted"


def test_a_refusal_never_shows_the_personal_value(book: Book) -> None:
    with pytest.raises(Refused) as refused:
        book.customers.register(name="Ada Lovelace" * 100)
    assert refused.value.code == "invalid_argument"
    assert "Ada" not in str(refused.value)
    assert "Ada" not in repr(refused.value.__context__ or "") or refused.value.__suppress_context__


def test_a_bulk_job_gives_the_hosts_garbage_collection_back(book: Book) -> None:
    import gc

    from tallybook.adapters.bulk import RARELY, rarely_collecting

    before = gc.get_threshold()
    with rarely_collecting(), rarely_collecting():
        assert gc.get_threshold() == RARELY
    assert gc.get_threshold() == before
    gc.set_threshold(0)
    with rarely_collecting():
        assert gc.get_threshold()[0] == 0
    gc.set_threshold(*before)
    with rarely_collecting():
        gc.set_threshold(123, 4, 5)
    assert gc.get_threshold() == (123, 4, 5)
    gc.set_threshold(*before)
    assert book.replay().holds
    assert gc.get_threshold() == before


def test_what_was_written_can_be_read_and_the_read_is_recorded(enrolled: tuple[Book, Any]) -> None:
    book, ada = enrolled
    case = book.tickets.open(ada, subject="Parcel damaged", text="The corner is torn", kind="complaint")
    book.tickets.reply(case, "We are sorry")
    book.customers.record_interaction(ada, "visit", text="Asked for a catalogue")
    texts = [dict(entry.texts) for entry in book.tickets.read(case)]
    assert texts == [{"subject": "Parcel damaged", "text": "The corner is torn"}, {"text": "We are sorry"}]
    timeline = book.profiles.timeline(ada)
    assert {"text": "Asked for a catalogue"} in [dict(entry.texts) for entry in timeline]
    assert [entry.action for entry in book.audit.trail(ada) if entry.log == "reads"] == [
        "read:tickets.read", "read:profiles.timeline", "read:audit.trail"
    ]  # fmt: skip
    assert book.tickets.get(case, known_at=book.tickets.read(case)[0].position).first_response_at is None
    with pytest.raises(Refused) as refused:
        book.tickets.read(ada)
    assert refused.value.code == "invalid_argument"


def test_a_look_at_a_profile_without_sealed_fields_is_recorded_too(book: Book) -> None:
    ada = book.customers.register(country="GB", birth_month=12)
    assert book.profiles.get(ada)["country"] == "GB"
    assert [entry.action for entry in book.audit.trail(ada) if entry.log == "reads"] == [
        "read:profiles.get", "read:audit.trail"
    ]  # fmt: skip


def test_the_trail_keeps_the_order_of_recording_and_names_every_field() -> None:
    ticks = iter(range(1_700_000_000_000_000, 1_800_000_000_000_000, 137_000))
    with (
        tallybook.open("memory:", now_us=lambda: next(ticks)) as book,
        book.acting("agent:lin", purpose="support"),
    ):
        ada = book.customers.register(name="Ada", country="GB")
        for country in ("FR", "IT", "DE", "ES", "PT"):
            book.customers.change(ada, country=country, clear=["name"])
        entries = [entry for entry in book.audit.trail(ada) if entry.log == "events"]
        assert [entry.position for entry in entries] == sorted(entry.position for entry in entries)
        assert entries[-1].fields == ("country", "name")


@pytest.mark.parametrize("other", ["ticket", "account", "book"])
def test_an_id_of_another_kind_is_refused_and_spoils_nothing(enrolled: tuple[Book, Any], other: str) -> None:
    book, ada = enrolled
    wrong = {
        "ticket": book.tickets.open(ada, subject="Parcel damaged"),
        "account": book.loyalty.account(ada).account_id,
        "book": book._core.book_id,
    }[other]
    for attempt in (
        lambda: book.customers.register(customer_id=wrong, name="Bob"),
        lambda: book.customers.record_purchase(wrong, [{"sku": "a", "quantity": 1, "net_minor": 1}]),
        lambda: book.tickets.assign(ada, "agent:kim"),
        lambda: book.tickets.get(ada),
        lambda: book.loyalty.enrol(wrong),
    ):
        with pytest.raises(Refused) as refused:
            attempt()
        assert refused.value.code == "invalid_argument"
    book.customers.change(ada, name="Ada King")
    assert book.profiles.get(ada)["name"] == "Ada King"


def test_a_retroactive_adoption_after_a_sweep_decides_once(tmp_path: Any) -> None:
    moment = [0]

    def at(day: str) -> None:
        from tallybook.times import moment_us

        moment[0] = moment_us(f"{day}T00:00:00Z", "day")

    text = STANDARD.read_text(encoding="utf-8")
    for version, threshold in (("2", 100), ("3", 50)):
        (tmp_path / f"{version}.toml").write_text(
            text.replace('version = "1"', f'version = "{version}"').replace(
                "threshold = 100", f"threshold = {threshold}"
            ),
            encoding="utf-8",
        )
    line = [{"sku": "a", "quantity": 1, "net_minor": 100}]
    at("2024-01-01")
    with tallybook.open("memory:", now_us=lambda: moment[0]) as book, book.acting("a:x", purpose="p"):
        book.rules.adopt(STANDARD, effective_at="2023-01-01T00:00:00Z")
        book.rules.adopt(tmp_path / "2.toml", effective_at="2023-06-01T00:00:00Z")
        ada = book.customers.register(name="Ada")
        book.loyalty.enrol(ada)
        at("2024-01-10")
        book.customers.record_purchase(ada, [{**line[0], "net_minor": 4_900}])
        book.customers.record_purchase(ada, [{**line[0], "net_minor": 1_100}])
        at("2024-02-01")
        book.loyalty.sweep()
        at("2024-02-02")
        book.rules.adopt(tmp_path / "3.toml", effective_at="2024-01-05T00:00:00Z")
        for day in ("2024-02-03", "2024-02-04", "2024-02-05"):
            at(day)
            book.customers.record_purchase(ada, line, effective_at="2024-01-15T00:00:00Z")
            assert book.replay().holds
        assert [one.tier for one in book.tiers.history(ada)] == ["basic", "silver"]


def test_who_acts_belongs_to_one_open_book(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path}/shop.book"
    with tallybook.open(url) as one, tallybook.open(url) as other, one.acting("agent:lin", purpose="support"):
        assert one.customers.register(name="Ada")
        with pytest.raises(Refused) as refused:
            other.customers.register(name="Ada")
        assert refused.value.code == "acting_required"


def test_segments_and_profile_agree_on_a_late_identifier(book: Book) -> None:
    ada = book.customers.register(name="Ada", effective_at="2024-01-01T00:00:00Z")
    book.customers.link_identifier(ada, "crm", "X1", effective_at="2024-01-05T00:00:00Z")
    book.customers.remove_identifier(ada, "crm", "X1", effective_at="2024-01-10T00:00:00Z")
    book.customers.link_identifier(ada, "crm", "X2", effective_at="2024-01-07T00:00:00Z")
    book.customers.record_purchase(ada, [{"sku": "a", "quantity": 1, "net_minor": 1}])
    assert "crm" not in book.profiles.get(ada).identifiers
    assert [name for name, _ in book.profiles.segments(system="crm")] == [""]


NO_TEXTS = ["a\0b", "\0", "\ud800", "a\udfffb"]
"""What PostgreSQL can't store, and what no encoding has."""


@pytest.mark.parametrize("given", NO_TEXTS)
def test_a_text_that_no_column_takes_is_refused_alike_on_both_databases(book: Book, given: str) -> None:
    ada = book.customers.register(name="Ada")
    asked: dict[str, list[Callable[[], object]]] = {
        "tier": [lambda: book.tiers.members(given)],
        "programme": [
            lambda: book.tiers.members("basic", programme=given),
            lambda: book.tiers.counts(programme=given),
            lambda: book.loyalty.account(ada, programme=given),
            lambda: book.loyalty.balance(ada, programme=given),
        ],
        "actor": [lambda: book.audit.trail(actor=given)],
        "path": [lambda: book.imports.cdnow(given)],
        "skip_bad": [lambda: book.imports.cdnow(MASTER, skip_bad=given)],
    }
    for argument, calls in asked.items():
        for call in calls:
            with pytest.raises(InvalidInput) as refused:
                call()
            assert refused.value.code == "invalid_argument"
            assert refused.value.values == {"argument": argument}
    assert list(book.tiers.members("none")) == []
    assert book.audit.trail(actor="agent:nobody") == []


@pytest.mark.parametrize("given", ["\ud800", "a\udfffb"])
def test_a_text_that_can_not_be_encoded_is_refused_by_every_command(book: Book, given: str) -> None:
    ada = book.customers.register(name="Ada")
    head = book.position()
    calls: list[Callable[[], object]] = [
        lambda: book.customers.register(name=given),
        lambda: book.customers.register(name=given, command_id="c-1"),
        lambda: book.customers.register(name="Ada", command_id=given),
        lambda: book.customers.register(name="Ada", identifiers={"crm": given}),
        lambda: book.customers.change(ada, name=given),
        lambda: book.customers.record_interaction(ada, "call", text=given),
        lambda: book.customers.record_purchase(
            ada, [{"sku": "x", "quantity": 1, "net_minor": 1, given: 1}], command_id="p-1"
        ),
        lambda: book.loyalty.enrol(ada, programme=given),
        lambda: book.tickets.open(ada, subject=given),
    ]
    for call in calls:
        with pytest.raises(InvalidInput, match="invalid_argument"):
            call()
    assert book.position() == head


@pytest.mark.parametrize("given", NO_TEXTS)
def test_a_name_that_no_file_has_is_refused(tmp_path: Path, given: str) -> None:
    with tallybook.open(f"sqlite:///{tmp_path}/shop.book") as book:
        book.backup(tmp_path / "good")
        for call in (
            lambda: book.backup(tmp_path / given),
            lambda: book.backup_keys(tmp_path / given),
            lambda: tallybook.restore(tmp_path / given, f"sqlite:///{tmp_path}/again.book"),
            lambda: tallybook.restore(tmp_path / "good", f"sqlite:///{tmp_path}/again.book", keys=tmp_path / given),
        ):
            with pytest.raises(InvalidInput, match=r"Unicode|NUL"):
                call()
    for url in (f"sqlite:///{tmp_path}/{given}", f"postgresql://kim@localhost/{given}"):
        with pytest.raises(BookError):
            tallybook.open(url)


@pytest.mark.parametrize("given", ["tiers", b"tiers", 5])
def test_one_text_is_no_list_of_read_models(book: Book, given: Any, tmp_path: Path) -> None:
    for call, argument in (
        (lambda: tallybook.open(f"sqlite:///{tmp_path}/other.book", inline=given), "inline"),
        (lambda: book.projections.catch_up(names=given), "names"),
        (lambda: book.projections.run(names=given), "names"),
        (lambda: book.follow(names=given), "names"),
    ):
        with pytest.raises(InvalidInput, match=f"{argument}: a list of .* is wanted") as refused:
            call()
        assert refused.value.code == "invalid_argument"
        assert refused.value.values == {"argument": argument}
    assert not (tmp_path / "other.book").exists()


@pytest.mark.parametrize("given", ["memory:", "models.db", Path("models.db"), "kim:secret@host"])
def test_what_names_no_place_for_read_models_is_told_in_their_words(given: Any) -> None:
    with pytest.raises(BookError, match="no place for read models") as error:
        tallybook.open("memory:", read_models=given)
    assert "memory:" not in error.value.remedy
    assert "secret" not in str(error.value)
