"""Policies in Cedar: they decide as the same policy in the built-in language does, deny by default, and are adopted."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tallybook import Book, Masked, PolicyError, Refused, Withheld
from tallybook.adapters.policy_files import decider, load_policy
from tallybook.domain.access import PersonalDataRead
from tallybook.domain.policy import known_fields

HEAD: dict[str, Any] = {
    "name": "test",
    "version": "1",
    "purposes": {
        "support": {"text": "Answering", "basis": "contract"},
        "marketing": {"text": "Writing", "basis": "legitimate_interests"},
    },
}
BUILT_IN = {
    **HEAD,
    "rules": [
        {"id": "admins", "roles": ["admin"], "purposes": ["support"], "commands": ["*"]},
        {"id": "see", "roles": ["support"], "purposes": ["support"], "actions": ["profiles.*"], "fields": ["*"]},
        {"id": "cases", "roles": ["support"], "commands": ["tickets.*"]},
        {"id": "less", "roles": ["support"], "fields": ["birth_date"], "effect": "mask"},
        {"id": "careful", "roles": ["trainee"], "fields": ["sensitivity:high"], "effect": "deny"},
        {"id": "reach", "roles": ["marketing"], "purposes": ["marketing"], "fields": ["category:contact"]},
        {"id": "who", "roles": ["marketing"], "purposes": ["marketing"], "fields": ["name"], "effect": "mask"},
        {"id": "never", "roles": ["*"], "commands": ["tickets.close"], "effect": "deny"},
    ],
}
CEDAR = {
    **HEAD,
    "cedar": """
        @id("admins")
        permit (principal in Role::"admin", action == Action::"command", resource)
        when { context.purpose == "support" };

        @id("see")
        permit (principal in Role::"support", action == Action::"read", resource is Field)
        when { context.purpose == "support" && context.action like "profiles.*" };

        @id("cases")
        permit (principal in Role::"support", action == Action::"command", resource is Command)
        when { resource.name like "tickets.*" };

        @id("less")
        permit (principal in Role::"support", action == Action::"mask", resource == Field::"birth_date");
        forbid (principal in Role::"support", action == Action::"read", resource == Field::"birth_date");

        @id("careful")
        forbid (principal in Role::"trainee", action in [Action::"read", Action::"mask"], resource is Field)
        when { resource.sensitivity.contains("high") };

        @id("reach")
        permit (principal in Role::"marketing", action == Action::"read", resource is Field)
        when { context.purpose == "marketing" && resource.category.contains("contact") };

        @id("who")
        permit (principal in Role::"marketing", action == Action::"mask", resource == Field::"name")
        when { context.purpose == "marketing" };
        forbid (principal in Role::"marketing", action == Action::"read", resource == Field::"name")
        when { context.purpose == "marketing" };

        @id("never")
        forbid (principal, action == Action::"command", resource == Command::"tickets.close");
    """,
}
ROLES = ["admin", "support", "trainee", "marketing"]
ALL_ROLES = [frozenset(some) for count in range(5) for some in itertools.combinations(ROLES, count)]
NAMES = ["profiles.get", "profiles.timeline", "tickets.read", "tickets.open", "tickets.close", "policy.adopt"]


@pytest.mark.parametrize("roles", ALL_ROLES, ids=lambda roles: ",".join(sorted(roles)) or "none")
def test_both_languages_decide_alike(roles: frozenset[str]) -> None:
    own, cedar = [decider(one.language, one.canonical()) for one in (load_policy(BUILT_IN), load_policy(CEDAR))]
    effects = set()
    for purpose, name in itertools.product(["support", "marketing", "undeclared"], NAMES):
        expected, found = own.decide(roles, purpose, name), cedar.decide(roles, purpose, name)
        assert (expected.permitted is None) == (found.permitted is None)
        for field in [*known_fields(), "contact.fax", "identifier.crm", "no such field"]:
            assert found.of(field).effect == expected.of(field).effect, (purpose, name, field)
            effects.add(expected.of(field).effect)
        assert cedar.command(roles, purpose, name).effect == own.command(roles, purpose, name).effect, (purpose, name)
    assert effects >= ({"allow", "mask", "deny"} if roles & {"marketing"} else {"deny"})


def test_rules_are_named_by_their_annotation() -> None:
    policy = load_policy(CEDAR)
    cedar = decider(policy.language, policy.canonical())
    assert cedar.decide(frozenset({"support"}), "support", "profiles.get").of("name").rule == "see"
    assert cedar.decide(frozenset({"support"}), "support", "profiles.get").of("birth_date").rule == "less"
    assert cedar.command(frozenset({"support"}), "support", "tickets.close").rule == "never"
    assert cedar.decide(frozenset({"support"}), "support", "profiles.get") is cedar.decide(
        frozenset({"support"}), "support", "profiles.get"
    )


def test_an_id_that_events_could_not_hold_in_the_clear_is_refused() -> None:
    with pytest.raises(PolicyError) as caught:
        load_policy({**HEAD, "cedar": '@id("Lin Brown may see") permit (principal, action, resource);'})
    assert '@id("Lin Brown may see")' in caught.value.problems[0]


def test_a_policy_that_fails_allows_nothing() -> None:
    document = load_policy(
        {
            **HEAD,
            "cedar": """permit (principal, action, resource);
                        forbid (principal, action, resource) when { context.nothing == "x" };""",
        }
    )
    cedar = decider(document.language, document.canonical())
    decision = cedar.decide(frozenset({"admin"}), "support", "profiles.get")
    assert decision.permitted is None
    assert decision.of("name").effect == "deny"
    assert cedar.command(frozenset({"admin"}), "support", "policy.adopt").effect == "deny"


@pytest.mark.parametrize("text", ["permit (principal", "", "nonsense;", "permit (principal, action, resource); x"])
def test_what_is_no_cedar_is_named(text: str) -> None:
    if not text:
        assert load_policy({**HEAD, "cedar": text}).language == "cedar"  # no policy at all: it denies everything
        return
    with pytest.raises(PolicyError) as caught:
        load_policy({**HEAD, "cedar": text})
    assert "cedar" in str(caught.value)


def test_a_book_obeys_a_policy_in_cedar(book: Book) -> None:
    ada = book.customers.register(name="Ada Lovelace", birth_date="1815-12-10", note="x", email="ada@example.org")
    with pytest.raises(Refused) as caught:
        book.policy.adopt(CEDAR)
    assert caught.value.code == "policy_locks_out"
    for actor, role in (("admin:root", "admin"), ("agent:lin", "support"), ("agent:kim", "trainee")):
        book.policy.grant(actor, role)
    assert book.policy.adopt(CEDAR) == "test@1"
    found = book.policy.in_force()
    assert found is not None
    assert (found.language, found.digest) == ("cedar", load_policy(CEDAR).digest())
    profile = book.profiles.get(ada)
    assert (profile["name"], profile["birth_date"]) == ("Ada Lovelace", Masked("1815"))
    with book.acting("agent:kim", purpose="support"), pytest.raises(Refused, match="access_denied"):
        book.profiles.get(ada)
    with book.acting("admin:root", purpose="support"):
        book.policy.grant("agent:lin", "trainee")
    profile = book.profiles.get(ada)
    assert profile["birth_date"] == profile["note"] == Withheld(ada, "denied")
    with pytest.raises(Refused, match="access_denied"):
        book.customers.change(ada, note="y")
    last = [one.event for one in book._core.reads() if isinstance(one.event, PersonalDataRead)][-1]
    assert set(last.withheld) == {"birth_date", "note"}
    assert {"see", "careful"} <= set(last.rules)
