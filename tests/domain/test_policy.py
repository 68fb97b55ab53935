"""Access policies: the document, deciding, hours, roles, and that nobody locks everybody out."""

from __future__ import annotations

import itertools
import json
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tallybook.adapters.policy_files import load_policy
from tallybook.domain.aggregate import Stamp
from tallybook.domain.calendar import UTC_ZONE
from tallybook.domain.errors import PolicyError, Refused
from tallybook.domain.events import REGISTRY, Event, Metadata
from tallybook.domain.policy import (
    CompiledPolicy,
    Policy,
    PolicyDocument,
    Purpose,
    Verdict,
    compiled_policy,
    known_fields,
    marks_of,
    parse_policy,
)

PURPOSES = {
    "support": {"text": "Answering", "basis": "contract"},
    "marketing": {"text": "Writing", "basis": "consent", "consent": "newsletter"},
}
EVERYBODY = {"id": "all", "roles": ["*"], "fields": ["*"], "commands": ["*"]}


def document(*rules: dict[str, Any], **others: Any) -> dict[str, Any]:
    return {"name": "test", "version": "1", "purposes": PURPOSES, "rules": list(rules), **others}


def policy(*rules: dict[str, Any]) -> CompiledPolicy:
    return CompiledPolicy(parse_policy(document(*rules), "test"))


# ── deciding ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_no_rule_allows_is_denied() -> None:
    decides = policy({"id": "a", "roles": ["clerk"], "fields": ["name"], "commands": ["tickets.open"]})
    decision = decides.decide(frozenset({"clerk"}), "support", "profiles.get")
    assert decision.of("name") == Verdict("allow", "a")
    assert decision.of("note") == Verdict("deny")
    assert decision.allowed == {"name"}
    assert decides.decide(frozenset(), "support", "profiles.get").of("name") == Verdict("deny")
    assert decides.decide(frozenset(), "support", "profiles.get").permitted is None
    assert decides.command(frozenset({"clerk"}), "support", "tickets.open") == Verdict("allow", "a")
    assert decides.command(frozenset({"clerk"}), "support", "tickets.close") == Verdict("deny")


def test_a_purpose_that_is_not_declared_is_allowed_nothing() -> None:
    decides = policy(EVERYBODY)
    assert decides.decide(frozenset(), "curiosity", "profiles.get").of("name") == Verdict("deny")
    assert decides.decide(frozenset(), "curiosity", "profiles.get").permitted is None
    assert decides.command(frozenset(), "curiosity", "tickets.open") == Verdict("deny")


EFFECTS = ("allow", "mask", "deny")


@pytest.mark.parametrize("order", list(itertools.permutations(EFFECTS)))
@pytest.mark.parametrize("count", [1, 2, 3])
def test_deny_beats_mask_and_mask_beats_allow_in_whatever_order_they_stand(order: tuple[str, ...], count: int) -> None:
    rules = [{"id": one, "effect": one, "roles": ["clerk"], "fields": ["name"]} for one in order[:count]]
    expected = max(order[:count], key=EFFECTS.index)
    assert policy(*rules).decide(frozenset({"clerk"}), "support", "x.y").of("name") == Verdict(expected, expected)


FITS = [
    ({"roles": ["clerk", "boss"]}, True),
    ({"roles": ["*"]}, True),
    ({"roles": ["boss"]}, False),
    ({"purposes": ["support"]}, True),
    ({"purposes": ["marketing"]}, False),
    ({"actions": ["profiles.get"]}, True),
    ({"actions": ["profiles.*"]}, True),
    ({"actions": ["profiles"]}, False),
    ({"actions": ["profile.*"]}, False),
    ({"fields": ["*"]}, True),
    ({"fields": ["contact.*"]}, True),
    ({"fields": ["contact.email"]}, True),
    ({"fields": ["contact.phone"]}, False),
    ({"fields": ["category:contact"]}, True),
    ({"fields": ["category:identity"]}, False),
    ({"fields": ["sensitivity:ordinary"]}, True),
    ({"fields": ["sensitivity:high"]}, False),
]


@pytest.mark.parametrize(("part", "fits"), FITS)
def test_a_rule_fits_by_role_purpose_action_and_field(part: dict[str, Any], fits: bool) -> None:
    rule = {"id": "a", "roles": ["clerk"], "fields": ["contact.email"], **part}
    found = policy(rule).decide(frozenset({"clerk"}), "support", "profiles.get").of("contact.email")
    assert found == (Verdict("allow", "a") if fits else Verdict("deny"))


def test_every_personal_field_of_every_event_is_known_with_its_marks() -> None:
    for schema in REGISTRY.values():
        for field, mark in schema.event_class.personal_fields.items():
            if mark.known_as == "{known_as}":
                continue  # it goes by the name of the field that it was sealed anew for
            name = mark.known_as.format(kind="email", system="crm", of="x") if mark.known_as else field
            marks = marks_of(name)
            assert mark.category in marks.categories, field
            assert mark.sensitivity in marks.sensitivities, field
            assert name in known_fields() or f"{name.partition('.')[0]}.*" in known_fields()


def test_a_decision_is_made_once() -> None:
    decides = policy(EVERYBODY)
    first = decides.decide(frozenset({"clerk"}), "support", "profiles.get")
    assert decides.decide(frozenset({"clerk"}), "support", "profiles.get") is first
    assert compiled_policy(parse_policy(document(EVERYBODY), "x").canonical()) is compiled_policy(
        parse_policy(document(EVERYBODY), "y").canonical()
    )


# ── the document ──────────────────────────────────────────────────────────────────────────────────────────────────

WRONG: list[tuple[dict[str, Any], str]] = [
    (document(EVERYBODY, nonsense=1), "nonsense"),
    (document({**EVERYBODY, "rolls": ["x"]}), "rules.0.rolls"),
    (document({**EVERYBODY, "fields": ["nam"]}), "there is no field 'nam'"),
    (document({**EVERYBODY, "fields": ["category:secrets"]}), "rules.0"),
    (document({**EVERYBODY, "fields": ["contact."]}), "rules.0"),
    (document({**EVERYBODY, "effect": "permit"}), "rules.0.effect"),
    (document({**EVERYBODY, "roles": []}), "rules.0.roles"),
    (document({**EVERYBODY, "roles": ["two words"]}), "rules.0.roles.0"),
    (document({"id": "a", "roles": ["*"]}), "give `fields`"),
    (document({"id": "a", "roles": ["*"], "commands": ["*"], "effect": "mask"}), "can't be masked"),
    (document({"id": "a", "roles": ["*"], "commands": ["*"], "actions": ["profiles.get"]}), "`actions`"),
    (document({**EVERYBODY, "purposes": ["suport"]}), "there is no purpose 'suport'"),
    (document(EVERYBODY, EVERYBODY), "two rules have the id 'all'"),
    (document(EVERYBODY, purposes={}), "purposes"),
    (document(EVERYBODY, purposes={"a": {"text": "x", "basis": "because"}}), "purposes.a.basis"),
    (document(EVERYBODY, purposes={"a": {"text": "x", "basis": "consent"}}), "name the consent"),
    (document(EVERYBODY, purposes={"a": {"text": "x", "basis": "contract", "hours": ["always"]}}), "hours"),
    *(
        (document(EVERYBODY, purposes={"a": {"text": "x", "basis": "contract", "hours": [never]}}), "never come")
        for never in ("Mon-Fri 22:00-06:00", "Mon 09:00-09:00", "Sat-Mon 00:00-00:00")
    ),
    ({**document(), "rules": None}, "give either"),
    (document(EVERYBODY, cedar="permit(principal, action, resource);"), "give either"),
    ({"name": "x"}, "version"),
]


@pytest.mark.parametrize(("wrong", "said"), WRONG, ids=[said for _, said in WRONG])
def test_what_is_wrong_with_a_document_is_named_with_its_path(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_policy(wrong, "policy.toml")
    assert said in str(caught.value)
    assert str(caught.value).startswith("policy.toml: ")
    assert caught.value.problems


def test_a_canonical_document_is_the_document_and_its_digest_does_not_depend_on_the_form() -> None:
    one = parse_policy(document(EVERYBODY), "x")
    again = PolicyDocument.model_validate_json(one.canonical())
    assert again == one
    assert again.digest() == one.digest() == parse_policy(dict(reversed(document(EVERYBODY).items())), "y").digest()
    assert parse_policy(document(EVERYBODY, version="2"), "x").digest() != one.digest()


WITHIN = [
    ("Mon-Fri 08:00-18:00", 4, 8, True),
    ("Mon-Fri 08:00-18:00", 4, 18, False),
    ("Mon-Fri 08:00-18:00", 6, 9, False),
    ("Fri-Mon 00:00-24:00", 6, 23, True),
    ("Fri-Mon 00:00-24:00", 3, 12, False),
    ("Thu 08:00-09:00", 4, 8, True),
]


@pytest.mark.parametrize(("hours", "weekday", "hour", "within"), WITHIN)
def test_hours_are_of_a_day_of_the_week(hours: str, weekday: int, hour: int, within: bool) -> None:
    # 1970-01-01 was a Thursday, the fourth day.
    at_us = ((weekday - 4) % 7 * 24 + hour) * 3_600_000_000
    assert Purpose(text="x", basis="contract", hours=[hours]).in_hours(at_us, UTC_ZONE) is within
    assert Purpose(text="x", basis="contract").in_hours(at_us)


# ── the aggregate ─────────────────────────────────────────────────────────────────────────────────────────────────


def stamp(at_us: int = 1000) -> Stamp:
    return Stamp(Metadata(recorded_us=1000, actor="admin:root", purpose="support"), at_us, uuid4)


@pytest.fixture
def held() -> Policy:
    return Policy(UUID(int=1)).draft(list[Event]())


SHOP = load_policy("shop")
ADMINS = compiled_policy(SHOP.canonical())


def test_a_policy_that_lets_nobody_adopt_another_is_refused(held: Policy) -> None:
    with pytest.raises(Refused) as caught:
        held.adopt(stamp(), SHOP, UTC_ZONE, ADMINS)
    assert caught.value.code == "policy_locks_out"
    held.grant(stamp(), "admin:root", "admin", 5000, None)  # with an end: after it, nobody could
    with pytest.raises(Refused, match="policy_locks_out"):
        held.adopt(stamp(), SHOP, UTC_ZONE, ADMINS)
    held.grant(stamp(2000), "admin:root", "admin", None, None)  # it has not begun
    with pytest.raises(Refused, match="policy_locks_out"):
        held.adopt(stamp(), SHOP, UTC_ZONE, ADMINS)
    held.grant(stamp(), "admin:root", "admin", None, None)
    assert held.adopt(stamp(), SHOP, UTC_ZONE, ADMINS) is not None
    assert held.adopt(stamp(), SHOP, UTC_ZONE, ADMINS) is None  # it is in force


def test_the_last_who_may_adopt_keeps_the_role(held: Policy) -> None:
    held.grant(stamp(), "admin:root", "admin", None, None)
    held.adopt(stamp(), SHOP, UTC_ZONE, ADMINS)
    with pytest.raises(Refused, match="policy_locks_out"):
        held.draft([]).revoke(stamp(), "admin:root", "admin", ADMINS)
    with pytest.raises(Refused, match="policy_locks_out"):
        held.draft([]).grant(stamp(), "admin:root", "admin", 9000, ADMINS)
    held.grant(stamp(), "admin:two", "admin", None, ADMINS)
    held.revoke(stamp(), "admin:root", "admin", ADMINS)
    assert held.roles_of("admin:root", 1000) == frozenset()
    assert held.roles_of("admin:two", 1000) == {"admin"}


def test_other_content_under_an_adopted_name_is_refused(held: Policy) -> None:
    held.grant(stamp(), "admin:root", "admin", None, None)
    held.adopt(stamp(), SHOP, UTC_ZONE, ADMINS)
    changed = SHOP.model_copy(update={"description": "another"})
    with pytest.raises(Refused) as caught:
        held.adopt(stamp(), changed, UTC_ZONE, ADMINS)
    assert caught.value.code == "policy_adopted"
    held.withdraw(stamp())
    with pytest.raises(Refused) as caught:
        held.withdraw(stamp())
    assert caught.value.code == "no_policy"
    assert held.adopt(stamp(), SHOP, UTC_ZONE, ADMINS) is not None  # again, unchanged


def test_a_role_holds_from_its_beginning_up_to_its_end(held: Policy) -> None:
    held.grant(stamp(100), "agent:lin", "clerk", 200, None)
    held.grant(stamp(150), "agent:lin", "support", None, None)
    assert [held.roles_of("agent:lin", at) for at in (99, 100, 149, 150, 199, 200)] == [
        set(), {"clerk"}, {"clerk"}, {"clerk", "support"}, {"clerk", "support"}, {"support"},
    ]  # fmt: skip
    assert held.grant(stamp(160), "agent:lin", "support", None, None) is None
    with pytest.raises(Refused) as caught:
        held.grant(stamp(100), "agent:lin", "clerk", 100, None)
    assert caught.value.code == "invalid_argument"
    with pytest.raises(Refused) as caught:
        held.revoke(stamp(), "agent:lin", "boss", None)
    assert caught.value.code == "role_not_granted"
    held.revoke(stamp(), "agent:lin", "clerk", None)
    held.revoke(stamp(), "agent:lin", "support", None)
    assert held.roles_of("agent:lin", 10**9) == frozenset()
    assert list(held.grants) == []


# ── what is adopted decides as what was written ───────────────────────────────────────────────────────────────────

ROLES, ACTIONS, COMMANDS = (
    ("clerk", "support", "desk.left"),
    ("profiles.get", "tickets.read"),
    ("tickets.open", "policy.adopt"),
)


def some(*patterns: str) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(patterns), min_size=1, max_size=3)


RULES = st.fixed_dictionaries(
    {"roles": some("*", *ROLES, "desk.*")},
    optional={
        "purposes": some("*", *PURPOSES),
        "actions": some("*", "profiles.*", *ACTIONS),
        "fields": some("*", "name", "contact.*", "contact.email", "category:contact", "sensitivity:high"),
        "commands": some("*", "tickets.*", *COMMANDS),
        "effect": st.sampled_from(["allow", "mask", "deny"]),
    },
).filter(
    lambda rule: (
        ("fields" in rule or "commands" in rule)
        and not ("commands" in rule and rule.get("effect") == "mask")
        and ("fields" in rule or rule.get("actions", ["*"]) == ["*"])
    )
)


@given(st.lists(RULES, min_size=1, max_size=5))
@example([{"roles": ["clerk"], "commands": ["tickets.*"]}])
@example([{"roles": ["clerk"], "commands": ["tickets.open"], "effect": "deny"}, {"roles": ["*"], "fields": ["*"]}])
@settings(max_examples=60, deadline=None)
def test_a_policy_that_was_stored_decides_as_the_one_that_was_written(rules: list[dict[str, Any]]) -> None:
    written = parse_policy(document(*({"id": f"r{number}", **rule} for number, rule in enumerate(rules))), "written")
    stored = parse_policy(json.loads(written.canonical()), "stored")
    assert stored == written
    assert (stored.canonical(), stored.digest()) == (written.canonical(), written.digest())
    one, other = CompiledPolicy(written), compiled_policy(written.canonical())
    for held in ((), *((role,) for role in ROLES), ROLES):
        roles = frozenset(held)
        for purpose in (*PURPOSES, "curiosity"):
            for command in COMMANDS:
                assert one.command(roles, purpose, command) == other.command(roles, purpose, command)
            for action in ACTIONS:
                first, second = one.decide(roles, purpose, action), other.decide(roles, purpose, action)
                assert first.permitted == second.permitted
                for field in ("name", "note", "contact.email", "identifier.crm"):
                    assert first.of(field) == second.of(field)


def test_a_rule_of_commands_alone_is_adopted(held: Policy) -> None:
    written = parse_policy(document({"id": "a", "roles": ["admin"], "commands": ["*"]}), "x")
    decides = compiled_policy(written.canonical())
    held.grant(stamp(), "admin:root", "admin", None, None)
    held.adopt(stamp(), written, UTC_ZONE, decides)
    assert held.in_force is not None
    assert PolicyDocument.model_validate_json(held.in_force.document) == written
