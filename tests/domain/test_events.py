"""Events: closed registry, frozen and exact values, personal values that never show."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

import tallybook.domain
from tallybook.domain.access import PersonalDataRead
from tallybook.domain.customer import CustomerRegistered, ProfileFact, PurchaseRecorded
from tallybook.domain.events import (
    ENVELOPE,
    REGISTRY,
    Decision,
    Event,
    Fact,
    Metadata,
    Schema,
    Value,
    from_us,
    stored,
    to_us,
)
from tallybook.domain.personal import Category, Erased, Personal, Sealed
from tallybook.domain.points import (
    LoyaltyDecision,
    PointsEarned,
    RedemptionHonoured,
    RedemptionRefused,
    RedemptionRequested,
)

SECRET = "Ada Lovelace of St James's Square"
ONE = UUID(int=1)


def envelope(**fields: Any) -> dict[str, Any]:
    return {
        "originator_id": ONE,
        "originator_version": 1,
        "event_id": UUID(int=2),
        "effective_us": 5,
        "subject_id": ONE,
        "metadata": Metadata(recorded_us=7, actor="agent:lin", purpose="support"),
        **fields,
    }


def registered(**fields: Any) -> CustomerRegistered:
    return CustomerRegistered(**envelope(kind="person", name=SECRET, **fields))


def event_classes() -> set[type[Event]]:
    for module in pkgutil.iter_modules(tallybook.domain.__path__):
        importlib.import_module(f"tallybook.domain.{module.name}")

    def below(parent: type[Event]) -> set[type[Event]]:
        return {found for child in parent.__subclasses__() for found in {child, *below(child)}}

    bases = {Fact, Decision, ProfileFact, LoyaltyDecision}
    return {found for found in below(Event) if found.__module__.startswith("tallybook.")} - bases


# ── the registry ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_event_class_is_registered_once_and_nothing_else_is() -> None:
    # No book holds a redemption that a backtest honours.
    assert {schema.event_class for schema in REGISTRY.values()} == event_classes() - {RedemptionHonoured}
    assert len({schema.event_class for schema in REGISTRY.values()}) == len(REGISTRY)


def test_every_stored_event_is_a_fact_or_a_decision_and_never_both() -> None:
    for schema in REGISTRY.values():
        assert issubclass(schema.event_class, Fact) != issubclass(schema.event_class, Decision)


def test_a_stored_name_tells_no_module_path() -> None:
    for name, schema in REGISTRY.items():
        area, _, what = name.partition(".")
        assert area in ("access", "book", "customer", "liability", "log", "loyalty", "policy", "reward", "ticket")
        assert what.isidentifier()
        assert schema.event_class.stored_name == schema.event_class.TOPIC == name


# The stored form is a contract: a name, once written, is read for ever.
FACTS = {
    "access.personal_data_read", "book.rule_set_adopted", "book.sweep_finished", "book.swept", "customer.changed",
    "customer.contact_point_added", "customer.contact_point_removed", "customer.identifier_linked",
    "customer.identifier_removed", "customer.interaction_recorded", "customer.key_created",
    "customer.purchase_recorded", "customer.registered", "customer.return_recorded", "loyalty.enrolled",
    "loyalty.goodwill_granted", "loyalty.redemption_requested", "ticket.assigned", "ticket.closed",
    "ticket.compensated", "ticket.opened", "ticket.replied", "ticket.resolved", "ticket.satisfaction_recorded",
}  # fmt: skip
DECISIONS = {
    "loyalty.earning_reversed", "loyalty.points_earned", "loyalty.points_expired", "loyalty.points_redeemed",
    "loyalty.redemption_refused", "loyalty.tier_changed",
}  # fmt: skip


def test_no_stored_name_is_ever_lost_or_changes_its_nature() -> None:
    kinds = {name: schema.event_class for name, schema in REGISTRY.items()}
    assert {name for name in FACTS if name in kinds and issubclass(kinds[name], Fact)} == FACTS
    assert {name for name in DECISIONS if name in kinds and issubclass(kinds[name], Decision)} == DECISIONS


def test_clear_and_personal_fields_are_all_fields_beside_the_envelope() -> None:
    for schema in REGISTRY.values():
        kind = schema.event_class
        assert set(kind.clear_fields) | set(kind.personal_fields) | ENVELOPE == set(kind.model_fields)
        assert not set(kind.clear_fields) & set(kind.personal_fields)
        assert list(schema.personal_fields(kind.schema_version)) == list(kind.personal_fields)


def test_the_names_that_free_text_hides_in_are_personal() -> None:
    sealed = {"name", "text", "value", "external_id", "order_id", "birth_date", "address", "note", "source_ref"}
    for schema in REGISTRY.values():
        leaked = sealed & set(schema.event_class.clear_fields)
        if schema.event_class.stored_name.startswith(("book.rule_set_", "policy.adopted")):
            leaked -= {"name"}  # of the rule set, of the policy
        assert not leaked, schema.event_class


def test_every_decision_names_its_rules_and_its_facts() -> None:
    for name in DECISIONS:
        assert {"rules", "facts"} <= set(REGISTRY[name].event_class.clear_fields)


def make(name: str, version: int = 1, **options: Any) -> dict[str, Schema]:
    registry: dict[str, Schema] = options.pop("registry", {})

    class Happened(Fact):
        points: int

    stored(name, version, registry=registry, **options)(Happened)
    return registry


def test_a_newer_version_needs_an_upcaster_from_each_older_one() -> None:
    for upcasters in ({}, {1: list}, {2: list}, {1: list, 2: list, 3: list}):
        with pytest.raises(TypeError, match=r"test\.happened: version 3 needs upcasters from 1 to 2"):
            make("test.happened", 3, upcasters=upcasters)
    registry = make("test.happened", 3, upcasters={1: list, 2: list}, former_personal={1: ("name",)})
    assert registry["test.happened"].event_class.schema_version == 3
    assert registry["test.happened"].personal_fields(1) == ("name",)
    assert registry["test.happened"].personal_fields(2) == ()


def test_the_first_version_has_no_upcasters() -> None:
    with pytest.raises(TypeError):
        make("test.happened", 1, upcasters={1: list})


def test_a_stored_name_is_taken_once() -> None:
    registry = make("test.happened")
    with pytest.raises(TypeError, match="the stored name is taken"):
        make("test.happened", registry=registry)
    with pytest.raises(TypeError, match="the stored name is taken"):
        make("loyalty.enrolled", registry=dict(REGISTRY))


# ── values ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_events_are_frozen() -> None:
    event = registered()
    for name in ("effective_us", "kind", "name", "metadata"):
        with pytest.raises(ValidationError):
            setattr(event, name, getattr(event, name))
    with pytest.raises(ValidationError):
        event.metadata.actor = "agent:eve"  # type: ignore[misc]  # that is the point


@pytest.mark.parametrize("points", [1.0, "1", True, None, -1, 10**13])
def test_points_are_whole_numbers_and_nothing_else(points: object) -> None:
    with pytest.raises(ValidationError):
        RedemptionRequested.model_validate(envelope(points=points, reward="R1"))


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValidationError):
        RedemptionRequested.model_validate(envelope(points=1, reward="R1", colour="red"))


NOT_SEEN = [
    "\u200b",
    "\u200c",
    "\u200d",
    "\u034f",
    "\ufe0f",
    "\U000e0100",
    "\ufeff",
    "\u00ad",
    "\u2060",
    "\u3164",
    "\u115f",
]


@pytest.mark.parametrize("code", [f"system{one}:erasure" for one in NOT_SEEN] + ["agent:jose\u0301", "agent:\u212b"])
def test_no_code_looks_like_another_by_what_is_not_seen(code: str) -> None:
    for name in ("actor", "purpose", "on_behalf_of", "channel"):
        with pytest.raises(ValidationError):
            Metadata.model_validate({"recorded_us": 0, "actor": "agent:lin", "purpose": "support", name: code})


@pytest.mark.parametrize(
    "code",
    [
        "agent:jos\u00e9",
        "\u5ba2\u670d:\u6797",
        "\u0939\u093f\u0928\u094d\u0926\u0940",
        "\u05e9\u05dc\u05d5\u05dd",
        "x/1.2+b_-",
    ],
)
def test_codes_are_written_in_any_script(code: str) -> None:
    assert Metadata(recorded_us=0, actor=code, purpose=code).actor == code


@pytest.mark.parametrize("code", ["two words", "ada@example.org", "", "x" * 65, "line\nbreak", "tail\n"])
def test_a_code_is_written_in_the_clear_so_no_name_and_no_address_fits_in(code: str) -> None:
    with pytest.raises(ValidationError):
        RedemptionRequested.model_validate(envelope(points=1, reward=code))
    with pytest.raises(ValidationError):
        Metadata(recorded_us=0, actor=code, purpose="support")


@pytest.mark.parametrize("label", ["standard", "@1", "a@", "a b@1", "a@1@2", "a@" + "1" * 128])
def test_a_decision_names_a_rule_set_with_its_version(label: str) -> None:
    with pytest.raises(ValidationError):
        RedemptionRefused.model_validate(
            envelope(rules=label, facts=(), programme="main", points=1, reward="R1", code="c", active=0)
        )


def test_all_events_are_strict_frozen_and_closed() -> None:
    kinds: list[type[Value]] = [Metadata, *(schema.event_class for schema in REGISTRY.values())]
    for kind in kinds:
        config = kind.model_config
        assert (config["strict"], config["frozen"], config["extra"]) == (True, True, "forbid")


def test_no_stored_field_is_a_float() -> None:
    for schema in REGISTRY.values():
        assert "number" not in {
            part.get("type") for part in _parts(schema.event_class.model_fields, schema.event_class)
        }


def _parts(fields: Any, kind: type[Event]) -> list[dict[str, Any]]:
    found = []
    for name in kind.clear_fields:
        annotation = str(fields[name].annotation)
        found.append({"type": "number" if "float" in annotation or "Decimal" in annotation else "other"})
    return found


def test_equal_decisions_have_equal_substance_whatever_their_ids() -> None:
    def earned(**fields: Any) -> PointsEarned:
        given: dict[str, Any] = {
            "rules": "a@1", "facts": (ONE,), "programme": "main", "points": 5, "qualifying": 5, "expires_us": 9,
            "rule_ids": ("base",), "lines": ({"basis": 500, "points": 5, "qualifying": 5},), "basis_unit": "minor",
            "tier": "basic", "debt_paid": 0, "lot_id": ONE, "activates_us": 0,
        }  # fmt: skip
        return PointsEarned(**{**envelope(), **given, **fields})

    other_metadata = Metadata(recorded_us=99, actor="system:x", purpose="y")
    same = earned(event_id=UUID(int=9), originator_version=4, metadata=other_metadata)
    assert same.substance() == earned().substance()
    for name, value in [("points", 6), ("effective_us", 6), ("rules", "a@2"), ("facts", ()), ("expires_us", 8),
                        ("lines", ()), ("basis_unit", "pieces")]:  # fmt: skip
        assert earned(**{name: value}).substance() != earned().substance()


def test_times_are_exact_to_the_microsecond_and_back() -> None:
    for at_us in (-(10**15), -1, 0, 1, 253_402_300_799_999_999):
        assert to_us(from_us(at_us)) == at_us
    event = registered()
    assert (to_us(event.effective_at), to_us(event.recorded_at)) == (5, 7)


# ── personal values ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_personal_value_is_a_handle_that_shows_nothing() -> None:
    event = registered(note="likes tea")
    assert isinstance(event.name, Personal)
    assert event.name.sealed is None
    for shown in (repr(event), str(event), repr(event.name), str(event.name), f"{event.name}", str(event.model_dump()),
                  str(dict(event)), str(event.substance()), str(event.__dict__)):  # fmt: skip
        assert SECRET not in shown
        assert "tea" not in shown


@pytest.mark.parametrize("mode", ["json", "text"])
def test_a_personal_value_is_not_written_to_json(mode: str) -> None:
    event = registered()
    with pytest.raises(PydanticSerializationError) as error:
        event.model_dump(mode="json") if mode == "json" else event.model_dump_json()
    assert SECRET not in str(error.value)


def test_a_personal_value_stays_out_of_the_schema_of_equality_and_hash() -> None:
    assert Personal("a") == Personal("a")
    assert Personal("a") != Personal("b")
    assert Personal("a") != "a"
    assert hash(Personal("a")) == hash(Personal("b"))


def test_a_sealed_handle_holds_no_value() -> None:
    sealed = Sealed(ONE, "customer.registered", 1, ONE, 1, ("name",), b"bytes")
    handle: Personal[str] = Personal(sealed=sealed, field="name")
    assert handle._take() is None
    assert (handle.sealed, handle.field, repr(handle)) == (sealed, "name", "Personal(sealed)")


@pytest.mark.parametrize("value", ["", "x" * 501, 5, b"bytes"])
def test_a_personal_value_is_checked_before_it_is_held(value: object) -> None:
    with pytest.raises(ValidationError):
        CustomerRegistered.model_validate(envelope(kind="person", name=value))


def test_marks_say_what_kind_of_data_a_field_holds() -> None:
    assert CustomerRegistered.personal_fields["name"].category is Category.IDENTITY
    assert PurchaseRecorded.personal_fields["order_id"].category is Category.TRANSACTION
    assert not PersonalDataRead.personal_fields


def test_erased_says_so_and_names_nobody() -> None:
    assert str(Erased(ONE)) == "(erased)"
