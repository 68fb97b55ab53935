"""The stored form: the golden bytes of every event, round trips, upcasting, and what can't be read."""

from __future__ import annotations

import copy
import importlib.util
import json
import pickle
import re
import types
import typing
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, SafeUUID, uuid4

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field, TypeAdapter, ValidationError

import tallybook.domain
import tallybook.domain.access
import tallybook.domain.control
import tallybook.domain.loyalty
import tallybook.domain.operations
import tallybook.domain.ticket  # noqa: F401 - each registers its events
from tallybook.adapters.codec import EventMapper
from tallybook.adapters.form import uuid_from
from tallybook.adapters.keys import Keyring, MemoryKeyStore
from tallybook.domain import personal
from tallybook.domain.customer import CustomerChanged, CustomerRegistered, PurchaseRecorded
from tallybook.domain.errors import NewerSchema, StoredFormError, TallybookError, UnknownStoredName
from tallybook.domain.events import ENVELOPE, REGISTRY, Code, Event, Fact, Metadata, Schema, Value, stored
from tallybook.domain.personal import Personal

GOLDEN = Path(__file__).parents[1] / "golden"


def _load_maker() -> Any:
    spec = importlib.util.spec_from_file_location("golden_make", GOLDEN / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


maker = _load_maker()
ALL_NAMES = sorted(REGISTRY)
GOLDEN_FILES = sorted(GOLDEN.glob("*.v*.json"))
LIMITS = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def fresh_mapper(*subjects: UUID) -> EventMapper:
    keyring = Keyring(MemoryKeyStore("tallybook/test"), lambda *_: None)
    keyring.keep(
        {(subject, key_id): keyring.key_for(subject, fresh=True)[2] for subject in subjects for key_id in (1, 2)}
    )
    return EventMapper(keyring)


# ── golden files ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stored_name", ALL_NAMES)
def test_every_stored_event_has_a_golden_file_of_its_current_version(stored_name: str) -> None:
    path = maker.path_of(stored_name, REGISTRY[stored_name].event_class.schema_version)
    assert path.is_file(), f"run python -m tests.golden.make: {path.name} is missing"


@pytest.mark.parametrize("stored_name", ALL_NAMES)
def test_the_encoding_of_an_event_never_changes(stored_name: str) -> None:
    event_class = REGISTRY[stored_name].event_class
    content = json.loads(maker.path_of(stored_name, event_class.schema_version).read_text(encoding="utf-8"))
    assert maker.golden(event_class) == content


def test_the_full_example_of_every_event_sets_every_personal_field() -> None:
    for stored_name in ALL_NAMES:
        event_class = REGISTRY[stored_name].event_class
        content = json.loads(maker.path_of(stored_name, event_class.schema_version).read_text(encoding="utf-8"))
        full = content["examples"]["full"]["decodes_to"]
        assert all(full[name] for name in event_class.personal_fields), stored_name
        for name in event_class.personal_fields:
            assert full[name].encode() not in bytes.fromhex(content["examples"]["full"]["state"]), (stored_name, name)


# ── round trips ───────────────────────────────────────────────────────────────────────────────────────────────────

ids = st.uuids(version=4).map(lambda made: UUID(bytes=made.bytes))
plain_text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)
TEXTS = {
    "any text": plain_text,
    "code-1": st.text("abcXYZ0189_.:/+-äöü客", min_size=1, max_size=64),
    "EUR": st.text("ABCXYZ", min_size=3, max_size=3),
    "standard@1": st.just("standard@2026-01") | st.just("x/y:z@1.0+b"),
}
"""An example of each kind of text, and a strategy for more of them."""


def values_of(annotation: Any, is_personal: bool = False) -> st.SearchStrategy[Any]:
    """Valid values of a field's type, made from the type itself: so that a new field can't be forgotten."""
    if is_personal:
        return st.none() | plain_text
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return st.one_of([st.none() if arg is type(None) else values_of(arg) for arg in args])
    if origin is tuple:
        return st.lists(values_of(args[0]), max_size=4).map(tuple)
    if isinstance(annotation, type) and issubclass(annotation, Value):
        fields = {name: values_of(marked(info)) for name, info in annotation.model_fields.items()}
        return st.builds(annotation, **fields)
    base = args[0] if origin is Annotated else annotation
    if base is int:
        low, high = bounds(annotation)
        return st.integers(low, high) | st.sampled_from([low, high])
    if base is str:
        adapter = TypeAdapter(annotation)
        fitting = [strategy for sample, strategy in TEXTS.items() if is_valid(adapter, sample)]
        return st.one_of(fitting)
    if typing.get_origin(base):
        return values_of(base)
    known = {UUID: ids, bool: st.booleans(), bytes: st.binary(max_size=40)}
    return known[base]


def is_valid(adapter: TypeAdapter[Any], value: object) -> bool:
    try:
        adapter.validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


def bounds(annotation: Any) -> tuple[int, int]:
    """The least and the greatest whole number that a type allows, within 63 bits."""
    low, high = -(2**62), 2**62
    for mark in typing.get_args(annotation)[1:]:
        for part in getattr(mark, "metadata", [mark]):
            low = getattr(part, "ge", low)
            high = getattr(part, "le", high)
    return low, high


def marked(info: Any) -> Any:
    annotation: Any = info.annotation
    for mark in info.metadata:
        annotation = Annotated[annotation, mark]
    return annotation


metadatas = values_of(Metadata)


def events_of(event_class: type[Event]) -> st.SearchStrategy[Event]:
    fields = {
        name: values_of(marked(info), name in event_class.personal_fields)
        for name, info in event_class.model_fields.items()
        if name not in ENVELOPE
    }
    if event_class.sealed_under is not None:
        fields[event_class.sealed_under] = st.sampled_from([1, 2])
    return st.builds(
        event_class,
        originator_id=ids,
        originator_version=st.integers(1, 2**40),
        event_id=ids,
        effective_us=st.integers(-(2**55), 2**55),
        subject_id=ids if event_class.personal_fields else st.none() | ids,
        metadata=metadatas,
        **fields,
    )


@pytest.mark.parametrize("stored_name", ALL_NAMES)
def test_what_is_stored_comes_back_the_same(stored_name: str) -> None:
    event_class = REGISTRY[stored_name].event_class

    @LIMITS
    @given(events_of(event_class))
    def check(event: Event) -> None:
        mapper = fresh_mapper(*event.subject_ids())
        row = mapper.to_stored_event(event)
        assert (row.originator_id, row.originator_version) == (event.originator_id, event.originator_version)
        assert row.topic == stored_name
        back = mapper.to_domain_event(row)
        assert type(back) is event_class
        for name in event_class.model_fields:
            if name not in event_class.personal_fields:
                assert getattr(back, name) == getattr(event, name), name
                assert type(getattr(back, name)) is type(getattr(event, name)), name
                continue
            held, handle = getattr(event, name), getattr(back, name)
            if held is None:
                assert handle is None
            else:
                of = event.personal_fields[name].of
                same = [one for one, mark in event.personal_fields.items() if mark.of == of and getattr(event, one)]
                assert handle.sealed.fields == tuple(same)
                assert handle.sealed.subject_id == getattr(event, of or "subject_id")
                assert handle._take() is None
        # Decoded the other way round, by a mapper that has nothing cached, it is equal to itself.
        assert EventMapper(mapper.keyring).to_domain_event(row) == back

    check()


@pytest.mark.parametrize("stored_name", ALL_NAMES)
def test_an_event_that_was_read_is_one_that_was_made(stored_name: str) -> None:
    event_class = REGISTRY[stored_name].event_class
    mapper = EventMapper(maker.keyring())
    read = mapper.to_domain_event(mapper.to_stored_event(maker.examples(event_class)["full"]))
    made = event_class(**dict(read))
    values = [(read, made), (read.metadata, made.metadata)]
    values += [(one, type(one)(**dict(one))) for one in getattr(read, "lines", ()) if isinstance(one, Value)]
    for ours, validated in values:
        assert type(ours) is type(validated)
        assert ours == validated
        assert validated == ours
        assert (hash(ours), sorted(ours.__repr_args__())) == (hash(validated), sorted(validated.__repr_args__()))
        assert ours.__dict__.keys() == type(ours).model_fields.keys()
        assert ours.__getstate__() == validated.__getstate__()
        assert (ours.model_extra, ours.model_fields_set) == (None, set(type(ours).model_fields))
        assert ours.__pydantic_private__ is None
        for copied in (copy.copy(ours), copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), ours.model_copy()):
            assert type(copied) is type(ours)
            assert copied == ours
            assert copied.__getstate__() == validated.__getstate__()
        first = next(iter(type(ours).model_fields))
        assert ours.model_copy(update={first: None}) != ours
        with pytest.raises(ValidationError, match="frozen"):
            setattr(ours, first, None)
        with pytest.raises(ValidationError, match="frozen"):
            delattr(ours, first)
        with pytest.raises(AttributeError, match=f"{type(ours).__name__!r} object has no attribute 'nothing'"):
            attrgetter("nothing")(ours)
    kept = {name for name in event_class.model_fields if name not in event_class.personal_fields}
    for option in ("exclude_unset", "exclude_defaults", "exclude_none", "warnings"):
        options: Any = {option: True}
        assert read.model_dump(include=kept, **options) == made.model_dump(include=kept, **options)
    assert event_class.model_validate(read) is read


def test_every_personal_value_comes_back_under_its_own_name() -> None:
    ring = maker.keyring()
    mapper = EventMapper(ring)
    for stored_name in ALL_NAMES:
        event = maker.examples(REGISTRY[stored_name].event_class)["full"]
        wanted = {name: getattr(event, name)._take() for name in event.personal_fields}
        back = mapper.to_domain_event(mapper.to_stored_event(event))
        for name in event.personal_fields:
            handle = getattr(back, name)
            assert ring.open(handle.sealed)[handle.field] == wanted[name]


def test_an_event_that_was_loaded_is_not_stored_again() -> None:
    mapper = EventMapper(maker.keyring())
    event = maker.examples(CustomerRegistered)["full"]
    back = mapper.to_domain_event(mapper.to_stored_event(event))
    with pytest.raises(TypeError, match="sealed before"):
        mapper.to_stored_event(back)


def test_personal_data_of_nobody_is_not_stored() -> None:
    event = maker.examples(CustomerRegistered)["full"].model_copy(update={"subject_id": None})
    with pytest.raises(TypeError, match="names no subject"):
        EventMapper(maker.keyring()).to_stored_event(event)


def test_stored_names_are_no_module_paths_and_each_is_given_once() -> None:
    assert sorted(REGISTRY) == ALL_NAMES
    for name, schema in REGISTRY.items():
        assert re.fullmatch(r"[a-z]+\.[a-z_]+", name)
        assert schema.event_class.schema_version >= 1
    classes = [schema.event_class for schema in REGISTRY.values()]
    assert len(set(classes)) == len(classes)
    assert [event_class.TOPIC for event_class in classes] == [event_class.stored_name for event_class in classes]


def test_a_stored_name_can_not_be_given_twice() -> None:
    with pytest.raises(TypeError, match="taken by CustomerRegistered"):
        stored("customer.registered")(type("Another", (Fact,), {"__annotations__": {}}))


# ── what can't be read ────────────────────────────────────────────────────────────────────────────────────────────

STREAM = UUID("0d742787-fee6-530b-ad74-1eecbf0053e4")


def full_state(stored_name: str) -> bytes:
    path = maker.path_of(stored_name, REGISTRY[stored_name].event_class.schema_version)
    return bytes.fromhex(json.loads(path.read_text(encoding="utf-8"))["examples"]["full"]["state"])


MAPPER = EventMapper(maker.keyring())


def attempt(stored_name: str, state: bytes, mapper: EventMapper = MAPPER) -> Event | str:
    """The event that a state gives, or what the error says. No other error may come out."""
    try:
        return mapper.read(STREAM, 7, stored_name, state, position=4711)
    except StoredFormError as error:
        return str(error)


def refuse(stored_name: str, state: bytes, kind: type[StoredFormError] = StoredFormError) -> StoredFormError:
    """Reading must fail with a kind of StoredFormError that names position, stream, version and stored name."""
    with pytest.raises(kind) as caught:
        MAPPER.read(STREAM, 7, stored_name, state, position=4711)
    text = str(caught.value)
    for part in ("position 4711", str(STREAM), "version 7", stored_name):
        assert part in text, text
    assert caught.value.where in text
    return caught.value


def test_an_unknown_stored_name_is_refused_and_never_imported() -> None:
    for name in ("customer.unheard_of", "os:system", "tallybook.domain.customer:CustomerRegistered", ""):
        refuse(name, full_state("customer.registered"), UnknownStoredName)


def test_a_class_outside_of_the_registry_is_not_stored() -> None:
    mapper = EventMapper(maker.keyring(), registry={})
    with pytest.raises(UnknownStoredName, match=r"customer\.registered"):
        mapper.to_stored_event(maker.examples(CustomerRegistered)["bare"])


@pytest.mark.parametrize("stored_name", ALL_NAMES)
def test_a_state_cut_short_at_any_byte_is_refused(stored_name: str) -> None:
    state = full_state(stored_name)
    for length in range(len(state)):
        refuse(stored_name, state[:length])


@pytest.mark.parametrize("stored_name", ALL_NAMES)
def test_bytes_after_the_end_are_refused(stored_name: str) -> None:
    refuse(stored_name, full_state(stored_name) + b"\xc0")


@pytest.mark.parametrize("stored_name", ALL_NAMES)
def test_an_item_too_many_or_too_few_is_refused(stored_name: str) -> None:
    values = msgpack.unpackb(full_state(stored_name))
    refuse(stored_name, msgpack.packb([*values, None]))
    refuse(stored_name, msgpack.packb(values[:-1]))
    refuse(stored_name, msgpack.packb([]))


@pytest.mark.parametrize("stored_name", ALL_NAMES)
def test_a_newer_schema_version_asks_for_an_upgrade(stored_name: str) -> None:
    values = msgpack.unpackb(full_state(stored_name))
    values[0] += 1
    error = refuse(stored_name, msgpack.packb(values), NewerSchema)
    assert "Upgrade" in str(error)


@pytest.mark.parametrize("version", [0, -1, -(2**63)])
def test_a_schema_version_that_never_was_is_refused(version: int) -> None:
    values = msgpack.unpackb(full_state("customer.registered"))
    refuse("customer.registered", msgpack.packb([version, *values[1:]]))


@pytest.mark.parametrize("version", [None, True, 1.0, "1", b"1", [1]])
def test_a_schema_version_of_another_type_is_refused(version: object) -> None:
    values = msgpack.unpackb(full_state("customer.registered"))
    refuse("customer.registered", msgpack.packb([version, *values[1:]]))


@pytest.mark.parametrize(
    "state", [b"", b"\xc0", b"\x01", b"\x80", b"\xa1x", b"\xc4\x01x", b"\xc1", b"\xdd\xff\xff\xff\xff"]
)
def test_what_is_no_array_is_refused(state: bytes) -> None:
    refuse("customer.registered", state)


def _wrong(value: object) -> list[object]:
    """Values of other types than a stored one."""
    others: list[object] = [5, 1.5, "text", b"bytes", [], ["x"], {}, {"a": 1}, True, msgpack.unpackb(b"\xd4\x05x")]
    if isinstance(value, bytes) and len(value) == 16:
        others += ["x" * 16, list(value), value[:15], value + b"\0"]
    return [other for other in others if type(other) is not type(value)]


@pytest.mark.parametrize("stored_name", ALL_NAMES)
def test_a_value_of_another_type_is_refused_wherever_it_stands(stored_name: str) -> None:
    values = msgpack.unpackb(full_state(stored_name))
    accepted = []
    for index, value in enumerate(values):
        if index in (0, 1):
            continue  # the schema version has tests of its own; the key id is the next test's
        for other in _wrong(value):
            state = msgpack.packb([*values[:index], other, *values[index + 1 :]])
            found = attempt(stored_name, state)
            if isinstance(found, str):
                assert "position 4711" in found
            else:
                accepted.append((index, value, other))
    assert not accepted


@pytest.mark.parametrize("key_id", [None, "1", b"1", 1.0, True, [1]])
def test_a_sealed_part_needs_a_key_id_that_is_a_number(key_id: object) -> None:
    values = msgpack.unpackb(full_state("customer.registered"))
    refuse("customer.registered", msgpack.packb([values[0], key_id, *values[2:]]))


@pytest.mark.parametrize("blob", [None, 5, "text", [1], {}, b"", b"too short"])
def test_a_sealed_part_is_bytes_that_hold_a_nonce_and_a_tag(blob: object) -> None:
    values = msgpack.unpackb(full_state("customer.registered"))
    mask = values[-1][0]
    refuse("customer.registered", msgpack.packb([*values[:-1], [mask, blob]]))


@pytest.mark.parametrize("mask", [0, -1, 2**11, 2**63, None, "1", 1.0, True])
def test_a_mask_that_names_no_personal_field_is_refused(mask: object) -> None:
    values = msgpack.unpackb(full_state("customer.registered"))
    blob = values[-1][1]
    refuse("customer.registered", msgpack.packb([*values[:-1], [mask, blob]]))


def test_a_sealed_part_of_nobody_is_refused() -> None:
    values = msgpack.unpackb(full_state("customer.registered"))
    refuse("customer.registered", msgpack.packb([*values[:4], None, *values[5:]]))


def test_a_sealed_part_on_an_event_without_personal_fields_is_refused() -> None:
    values = msgpack.unpackb(full_state("ticket.closed"))
    refuse("ticket.closed", msgpack.packb([*values[:-1], [1, b"x" * 40]]))


@pytest.mark.parametrize("position", range(8))
def test_metadata_of_wrong_types_is_refused(position: int) -> None:
    values = msgpack.unpackb(full_state("customer.registered"))
    for other in (5.5, ["x"], {"a": 1}, "two words", b"x"):
        metadata = [*values[5][:position], other, *values[5][position + 1 :]]
        refuse("customer.registered", msgpack.packb([*values[:5], metadata, *values[6:]]))
    refuse("customer.registered", msgpack.packb([*values[:5], values[5][:position], *values[6:]]))


def test_neighbouring_metadata_is_told_apart_by_type_too() -> None:
    # Equal in Python (1 == 1.0 == True), not equal in the book.
    values = msgpack.unpackb(full_state("ticket.closed"))
    values[5][0] = 1
    mapper = EventMapper(maker.keyring())
    mapper.read(STREAM, 7, "ticket.closed", msgpack.packb(values))
    for other in (1.0, True):
        values[5][0] = other
        with pytest.raises(StoredFormError):
            mapper.read(STREAM, 7, "ticket.closed", msgpack.packb(values))


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(ALL_NAMES), st.binary(max_size=200))
def test_random_bytes_give_a_stored_form_error_and_nothing_else(stored_name: str, state: bytes) -> None:
    refuse(stored_name, state)


scalars: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=20)
)
packable = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(ALL_NAMES), st.data())
def test_a_state_with_anything_put_anywhere_gives_an_event_or_a_stored_form_error(
    stored_name: str, data: st.DataObject
) -> None:
    values = msgpack.unpackb(full_state(stored_name))
    for _ in range(data.draw(st.integers(1, 3))):
        values[data.draw(st.integers(0, len(values) - 1))] = data.draw(packable)
    found = attempt(stored_name, msgpack.packb(values))
    assert "position 4711" in found if isinstance(found, str) else found.stored_name == stored_name


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(ALL_NAMES), st.integers(0, 10**6), st.integers(1, 255))
def test_a_flipped_byte_gives_an_event_or_a_stored_form_error(stored_name: str, where: int, flip: int) -> None:
    state = bytearray(full_state(stored_name))
    state[where % len(state)] ^= flip
    found = attempt(stored_name, bytes(state))
    assert "position 4711" in found if isinstance(found, str) else found.stored_name == stored_name


def test_an_id_has_sixteen_bytes() -> None:
    made = uuid4()
    found = uuid_from(made.bytes)
    assert (type(found), found, hash(found), repr(found)) == (UUID, made, hash(made), repr(made))
    assert (found.is_safe, pickle.dumps(found)) == (SafeUUID.unknown, pickle.dumps(UUID(bytes=made.bytes)))
    with pytest.raises(TypeError, match="immutable"):
        found.int = 1  # type: ignore[misc]  # that is the test
    for raw in (b"", made.bytes[:15], made.bytes + b"\0"):
        with pytest.raises(ValueError, match="16 bytes"):
            uuid_from(raw)


# ── older schema versions ─────────────────────────────────────────────────────────────────────────────────────────


def _third_version() -> tuple[dict[str, Schema], type[Event]]:
    """An event in its third version.

    v1: clear (amount in dollars, label), personal (nickname, phone)
    v2: clear (amount in cents, label), personal (nickname, phone)
    v3: clear (cents, currency), personal (email, nickname): `label` and `phone` are gone, `email` is new
    """
    registry: dict[str, Schema] = {}

    @stored(
        "made.up",
        3,
        upcasters={
            1: lambda clear: [clear[0] * 100, clear[1]],
            2: lambda clear: [clear[0], "EUR" if clear[1] == "eu" else "USD"],
        },
        former_personal={1: ("nickname", "phone"), 2: ("nickname", "phone")},
        registry=registry,
    )
    class MadeUp(Fact):
        cents: Annotated[int, Field(ge=0)]
        currency: Code
        email: personal.Detail = None
        nickname: personal.Name = None

    return registry, MadeUp


def _older(
    version: int, clear: list[Any], names: list[str], held: list[str], known: tuple[str, ...]
) -> tuple[Keyring, bytes, UUID]:
    keyring = maker.keyring()
    event_id = uuid4()
    sealed = None
    if names:
        mask = sum(1 << known.index(name) for name in names)
        sealed = [mask, keyring.seal(maker.SUBJECT, event_id, "made.up", version, names, held)]
    state = msgpack.packb(
        [
            version,
            1 if names else None,
            event_id.bytes,
            5,
            maker.SUBJECT.bytes,
            [6, "agent:lin", "support", None, None, None, None, None, None, None],
            *clear,
            sealed,
        ]
    )
    return keyring, state, event_id


@pytest.mark.parametrize(
    ("version", "clear", "cents", "currency"),
    [(1, [12, "eu"], 1200, "EUR"), (2, [1234, "us"], 1234, "USD"), (3, [1234, "EUR"], 1234, "EUR")],
)
def test_older_versions_become_the_newest_step_by_step(
    version: int, clear: list[Any], cents: int, currency: str
) -> None:
    registry, made_up = _third_version()
    keyring, state, event_id = _older(version, clear, [], [], ())
    event = EventMapper(keyring, registry).read(STREAM, 7, "made.up", state, 1)
    assert type(event) is made_up
    assert (event.event_id, event.effective_us, event.subject_id) == (event_id, 5, maker.SUBJECT)
    assert (getattr(event, "cents"), getattr(event, "currency")) == (cents, currency)  # noqa: B009 - made here


@pytest.mark.parametrize("version", [1, 2])
def test_personal_fields_of_older_versions_open_under_the_version_that_sealed_them(version: int) -> None:
    registry, _ = _third_version()
    clear: list[Any] = [12, "eu"]
    keyring, state, _ = _older(version, clear, ["nickname", "phone"], ["Lin", "+49 30"], ("nickname", "phone"))
    event: Any = EventMapper(keyring, registry).read(STREAM, 7, "made.up", state, 1)
    assert event.email is None
    assert isinstance(event.nickname, Personal)
    assert event.nickname.sealed is not None
    assert event.nickname.sealed.schema_version == version
    # The blob holds the field that is gone, too; no handle leads to it.
    assert keyring.open(event.nickname.sealed) == {"nickname": "Lin", "phone": "+49 30"}


def test_an_older_event_whose_only_personal_field_is_gone_holds_no_handle() -> None:
    registry, _ = _third_version()
    keyring, state, _ = _older(1, [12, "eu"], ["phone"], ["+49 30"], ("nickname", "phone"))
    event: Any = EventMapper(keyring, registry).read(STREAM, 7, "made.up", state, 1)
    assert event.email is None
    assert event.nickname is None


def test_the_newest_version_is_read_with_todays_personal_fields() -> None:
    registry, _ = _third_version()
    keyring, state, _ = _older(3, [1, "EUR"], ["nickname"], ["Lin"], ("email", "nickname"))
    event: Any = EventMapper(keyring, registry).read(STREAM, 7, "made.up", state, 1)
    assert event.email is None
    assert keyring.open(event.nickname.sealed) == {"nickname": "Lin"}


@pytest.mark.parametrize("clear", [[], [12], ["12", "eu"], [None, None], [12, "eu", "more"], [-12, "eu"], [12, ["eu"]]])
@pytest.mark.parametrize("version", [1, 2])
def test_an_older_event_that_its_upcaster_can_not_read_is_a_stored_form_error(version: int, clear: list[Any]) -> None:
    registry, _ = _third_version()
    keyring, state, _ = _older(version, clear, [], [], ())
    found: Any = attempt("made.up", state, EventMapper(keyring, registry))
    if isinstance(found, str):
        assert "position 4711" in found
        assert "made.up" in found
    else:
        # What an upcaster makes of nonsense may have the right form; its types are those of the newest version.
        assert (type(found.cents), type(found.currency)) == (int, str)


def test_a_version_without_its_upcasters_can_not_be_registered() -> None:
    with pytest.raises(TypeError, match="needs upcasters from 1 to 2"):
        stored("made.up", 3, upcasters={1: lambda clear: clear}, registry={})


def test_upcasters_of_todays_registry_reach_from_the_first_version_to_the_last() -> None:
    for name, schema in REGISTRY.items():
        assert set(schema.upcasters) == set(range(1, schema.event_class.schema_version)), name


def test_every_error_of_the_stored_form_has_the_one_root() -> None:
    assert issubclass(UnknownStoredName, StoredFormError)
    assert issubclass(NewerSchema, StoredFormError)
    assert issubclass(StoredFormError, TallybookError)


def test_changed_and_registered_hold_the_same_profile_fields_in_the_same_order() -> None:
    changed = [name for name in CustomerChanged.clear_fields if name != "cleared"]
    registered = [name for name in CustomerRegistered.clear_fields if name != "kind"]
    assert changed == registered
    assert list(CustomerChanged.personal_fields) == list(CustomerRegistered.personal_fields)
    assert "order_id" in PurchaseRecorded.personal_fields


# ── scanning without events ───────────────────────────────────────────────────────────────────────────────────────


def _raw(value: Any) -> Any:
    """A field's value as a scan gives it."""
    if isinstance(value, UUID):
        return value.bytes
    if isinstance(value, Value):
        return tuple(_raw(getattr(value, name)) for name in type(value).model_fields)
    return tuple(map(_raw, value)) if isinstance(value, tuple) else value


@pytest.mark.parametrize("stored_name", ALL_NAMES)
def test_a_scan_gives_the_fields_that_reading_gives(stored_name: str) -> None:
    event_class = REGISTRY[stored_name].event_class
    fields = ["event_id", "effective_us", "subject_id", "metadata", *event_class.clear_fields]
    mapper = EventMapper(maker.keyring())
    events = list(maker.examples(event_class).values())
    rows = [(position, state) for position, (_, _, _, state) in enumerate(mapper.rows(events), 7)]
    found = list(mapper.scan(stored_name, fields, rows))
    assert found == [
        (position, tuple(_raw(getattr(event, name)) for name in fields)) for position, event in enumerate(events, 7)
    ]
    for name, one in zip(fields, found[0][1], strict=True):
        assert list(mapper.scan(stored_name, [name], rows[:1])) == [(7, (one,))]


def test_a_scan_knows_clear_fields_only() -> None:
    state = full_state("customer.registered")
    for name in ("name", "unheard_of", "originator_id"):
        with pytest.raises(KeyError, match=name):
            MAPPER.scan("customer.registered", ["kind", name], [(1, state)])


@pytest.mark.parametrize("stored_name", ALL_NAMES)
def test_a_scan_over_a_state_that_is_broken_names_its_position(stored_name: str) -> None:
    state = full_state(stored_name)
    values = msgpack.unpackb(state)
    newer = msgpack.packb([values[0] + 1, *values[1:]])
    broken = [state[:-1], state + b"\xc0", b"", b"\x01", msgpack.packb([*values, None]), msgpack.packb(values[:-1])]
    for bad in (*broken, newer):
        with pytest.raises(NewerSchema if bad is newer else StoredFormError, match=f"position 4711, {stored_name}"):
            MAPPER.scan(stored_name, ["event_id"], [(4710, state), (4711, bad)])


def test_a_scan_gives_older_versions_as_the_newest() -> None:
    registry, made_up = _third_version()
    mapper = EventMapper(maker.keyring(), registry)
    at = [b"e" * 16, 5, b"s" * 16, [1, "system:x", "sale", None, None, None, None, None, None, None]]
    states = [
        msgpack.packb([1, None, *at, 2, "eu", None]),
        msgpack.packb([2, None, *at, 300, "us", None]),
        msgpack.packb([3, None, *at, 400, "CHF", None]),
    ]
    rows = list(enumerate(states, 1))
    found = [(1, (200, "EUR")), (2, (300, "USD")), (3, (400, "CHF"))]
    assert list(mapper.scan(made_up.stored_name, ["cents", "currency"], rows)) == found
    assert list(mapper.scan(made_up.stored_name, ["cents", "currency"], rows[2:])) == found[2:]
