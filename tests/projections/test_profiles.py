"""Profiles: what is known of a customer now, as of a moment, and as the book knew it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tallybook
from tallybook.domain.customer import CustomerChanged, CustomerRegistered
from tallybook.domain.events import Metadata, from_us
from tallybook.projections.profiles import Profile, Profiles, profile_of
from tallybook.projections.read_models import Recorded

if TYPE_CHECKING:
    from tests.projections.conftest import Shop

    from tallybook.views import ProfileView


def test_of_several_values_the_one_that_took_effect_last_counts_not_the_one_recorded_last(shop: Shop) -> None:
    ada = shop.member(name="Ada Byron", country="GB")
    book = shop.book
    book.customers.change(ada, name="Ada Lovelace", effective_at="2020-06-01T00:00:00Z")
    known = book.position()
    book.customers.change(ada, name="Ada King", country="IT", effective_at="2020-03-01T00:00:00Z")
    assert book.profiles.get(ada)["name"] == "Ada Lovelace"
    assert book.profiles.get(ada)["country"] == "IT"
    assert book.profiles.get(ada, as_of="2020-02-29")["name"] == "Ada Byron"
    assert book.profiles.get(ada, as_of="2020-03-01")["name"] == "Ada King"
    assert book.profiles.get(ada, as_of="2020-03-01", known_at=known)["name"] == "Ada Byron"
    assert book.profiles.get(ada, as_of="2020-06-01")["name"] == "Ada Lovelace"
    assert book.profiles.get(ada, known_at=known)["country"] == "GB"


def test_what_the_book_knew_is_asked_by_time_too(shop: Shop) -> None:
    ada = shop.member(owner="agent:lin")
    shop.now += timedelta(days=10)
    shop.book.customers.change(ada, owner="agent:max", effective_at="2020-03-01T00:00:00Z")
    day = timedelta(days=1)
    assert shop.book.profiles.get(ada, known_at=shop.now - day)["owner"] == "agent:lin"
    assert shop.book.profiles.get(ada, known_at=shop.now)["owner"] == "agent:max"


def test_a_field_says_since_when_it_holds_and_which_event_set_it(shop: Shop) -> None:
    ada = shop.member(name="Ada", country="GB")
    shop.book.customers.change(ada, country="IT", effective_at="2020-03-01T12:00:00Z")
    position = shop.book.position()
    view = shop.book.profiles.get(ada)
    assert (view.fields["country"].since, view.fields["country"].position) == ("2020-03-01T12:00:00Z", position)
    assert (view.fields["country"].personal, view.fields["name"].personal) == (False, True)
    assert shop.history()[view.fields["name"].position - 1].event.stored_name == "customer.registered"


def test_a_cleared_field_is_gone_and_was_there_before(shop: Shop) -> None:
    ada = shop.member(occupation="countess", owner="agent:lin")
    shop.book.customers.change(ada, clear=["occupation", "owner"], effective_at="2020-03-01T00:00:00Z")
    assert set(shop.book.profiles.get(ada).fields) == set()
    before = shop.book.profiles.get(ada, as_of="2020-02-29")
    assert (before["occupation"], before["owner"]) == ("countess", "agent:lin")


def test_clearing_the_birth_date_clears_the_month_too_unless_one_is_given(shop: Shop) -> None:
    customers, profiles = shop.book.customers, shop.book.profiles
    ada = shop.member(birth_date="1815-12-10")
    assert (profiles.get(ada)["birth_date"], profiles.get(ada)["birth_month"]) == ("1815-12-10", 12)
    customers.change(ada, clear=["birth_date"], effective_at="2020-03-01T00:00:00Z")
    assert set(profiles.get(ada).fields) == set()
    assert profiles.get(ada, as_of="2020-02-01")["birth_month"] == 12
    customers.change(ada, birth_date="--11-10", effective_at="2020-04-01T00:00:00Z")
    assert profiles.get(ada)["birth_month"] == 11
    customers.change(ada, birth_month=5, clear=["birth_date"], effective_at="2020-05-01T00:00:00Z")
    assert {name: one.value for name, one in profiles.get(ada).fields.items()} == {"birth_month": 5}
    customers.change(ada, clear=["birth_month"], effective_at="2020-06-01T00:00:00Z")
    assert set(profiles.get(ada).fields) == set()


def test_a_late_value_does_not_bring_a_cleared_field_back(shop: Shop) -> None:
    ada = shop.member(owner="agent:lin")
    shop.book.customers.change(ada, clear=["owner"], effective_at="2020-06-01T00:00:00Z")
    shop.book.customers.change(ada, owner="agent:max", effective_at="2020-03-01T00:00:00Z")
    assert "owner" not in shop.book.profiles.get(ada).fields
    assert shop.book.profiles.get(ada, as_of="2020-04-01")["owner"] == "agent:max"


def test_a_customer_is_unknown_before_the_registration_took_effect_or_was_recorded(shop: Shop) -> None:
    empty = shop.book.position()
    ada = shop.member("2020-05-05")
    for asked in ({"as_of": "2020-05-04"}, {"known_at": empty}):
        with pytest.raises(tallybook.Refused) as refused:
            shop.book.profiles.get(ada, **asked)
        assert refused.value.code == "unknown_customer"


def test_identifiers_and_contact_points_come_and_go(shop: Shop) -> None:
    ada = shop.member(email="ada@example.org", identifiers={"shop": "S-1"})
    (point,) = shop.book.profiles.get(ada).contact_points
    assert (point.kind, point.value) == ("email", "ada@example.org")
    shop.book.customers.remove_contact_point(ada, point.point_id, effective_at="2020-03-01T00:00:00Z")
    shop.book.customers.remove_identifier(ada, "shop", "S-1", effective_at="2020-03-01T00:00:00Z")
    shop.book.customers.link_identifier(ada, "shop", "S-2", effective_at="2020-04-01T00:00:00Z")
    now, before, between = (
        shop.book.profiles.get(ada),
        shop.book.profiles.get(ada, as_of="2020-02-01"),
        shop.book.profiles.get(ada, as_of="2020-03-15"),
    )
    assert [[one.value for one in view.contact_points] for view in (now, before, between)] == [
        [], ["ada@example.org"], [],
    ]  # fmt: skip
    assert [{name: one.value for name, one in view.identifiers.items()} for view in (now, before, between)] == [
        {"shop": "S-2"}, {"shop": "S-1"}, {},
    ]  # fmt: skip


def test_counts_are_of_the_world_by_that_moment(shop: Shop) -> None:
    ada = shop.member()
    book = shop.book
    bought = shop.buy(ada, "2020-02-01", 500, 250)
    shop.buy(ada, "2020-01-15", 100)
    shop.give_back(ada, "2020-02-20", bought, 1)
    book.customers.record_interaction(ada, "visit", effective_at="2020-02-10T00:00:00Z")
    ticket = book.tickets.open(ada, subject="x", effective_at="2020-02-11T00:00:00Z")
    book.tickets.resolve(ticket, "done", effective_at="2020-02-12T00:00:00Z")
    now, then = book.profiles.get(ada), book.profiles.get(ada, as_of="2020-02-05")

    def told(view: ProfileView) -> tuple[object, ...]:
        return (view.purchases, view.pieces, view.returns, view.interactions, view.tickets, view.tickets_resolved,
                dict(view.spent_minor), view.first_purchase_at, view.last_purchase_at)  # fmt: skip

    first, last = "2020-01-15T00:00:00Z", "2020-02-01T00:00:00Z"
    assert told(now) == (2, 3, 1, 1, 1, 1, {"USD": 850}, first, last)
    assert told(then) == (2, 3, 0, 0, 0, 0, {"USD": 850}, first, last)
    assert now.last_interaction_at == "2020-02-10T00:00:00Z"


def test_two_customers_do_not_disturb_each_other(shop: Shop) -> None:
    ada, bob = shop.member(name="Ada"), shop.member(name="Bob")
    before = shop.book.profiles.get(ada)
    shop.book.customers.change(bob, name="Robert", country="US")
    shop.buy(bob, "2020-02-01", 500)
    assert shop.book.profiles.get(ada) == before
    assert shop.book.profiles.get(bob)["name"] == "Robert"


def test_a_profile_row_holds_no_personal_value(shop: Shop) -> None:
    shop.member(name="Ada Lovelace", email="ada@example.org", note="likes tea", identifiers={"shop": "S-77"})
    shop.book.projections.catch_up()
    ((_, packed),) = shop.rows(shop.book._core.profiles, Profiles.table)
    for secret in (b"Lovelace", b"ada@", b"tea", b"S-77"):
        assert secret not in packed


def test_a_profile_survives_packing() -> None:
    profile = Profile()
    profile.kind = "person"
    profile.set("name", 5, 1, "personal")
    profile.set("country", 5, 1, "clear", "GB")
    profile.count("purchases", 2)
    profile.earliest("first_purchase_us", 9)
    profile.spent["USD"] = 10**15
    back = Profile.unpacked(profile.packed())
    assert [getattr(back, name) for name in Profile.__slots__] == [getattr(profile, name) for name in Profile.__slots__]


# ── properties ────────────────────────────────────────────────────────────────────────────────────────────────────

_changes = st.lists(
    st.tuples(
        st.integers(1, 20),
        st.sampled_from(["owner", "country", "source"]),
        st.none() | st.sampled_from(["a", "b", "c", "d"]),
    ),
    max_size=8,
)
START = 1_577_836_800_000_000
DAY = 86_400_000_000


@settings(max_examples=30, deadline=None, print_blob=True)
@given(changes=_changes, moment=st.integers(0, 21), known=st.integers(0, 8))
def test_a_profile_as_of_a_moment_is_what_a_replay_to_that_moment_gives(
    open_shop: Callable[..., Shop], changes: list[tuple[int, str, str | None]], moment: int, known: int
) -> None:
    shop = open_shop()
    ada = shop.member()
    start = shop.book.position()
    for day, name, value in changes:
        at = from_us(START + day * DAY)
        if value is None:
            shop.book.customers.change(ada, clear=[name], effective_at=at)
        else:
            shop.book.customers.change(ada, effective_at=at, **{name: value})  # type: ignore[arg-type]  # names of fields

    # The latest by (effective time, position) of those known and effective by then.
    def model(upto: int, by: int) -> dict[str, str]:
        seen = [(day, index, name, value) for index, (day, name, value) in enumerate(changes) if day <= by]
        state = {name: value for _, index, name, value in sorted(seen, key=lambda c: c[:2]) if index < upto}
        return {name: value for name, value in state.items() if value is not None}

    def shown(view: ProfileView) -> dict[str, object]:
        return {name: one.value for name, one in view.fields.items()}

    book = shop.book
    as_of = from_us(START + moment * DAY)
    assert shown(book.profiles.get(ada)) == model(99, 99)
    assert shown(book.profiles.get(ada, as_of=as_of)) == model(99, moment)
    assert shown(book.profiles.get(ada, known_at=start + known)) == model(known, 99)
    assert shown(book.profiles.get(ada, as_of=as_of, known_at=start + known)) == model(known, moment)
    shop.close()


@settings(max_examples=30, deadline=None, print_blob=True)
@given(order=st.permutations(range(6)), cut=st.integers(0, 7))
def test_the_read_model_and_a_look_at_the_head_are_one_fold(
    open_shop: Callable[..., Shop], order: list[int], cut: int
) -> None:
    shop = open_shop()
    ada = shop.member(country="GB")
    for index in order:
        shop.book.customers.change(ada, owner=f"o{index}", effective_at=from_us(START + index * DAY))
        if index == cut:
            shop.book.projections.catch_up()
    shop.book.projections.catch_up()
    ((_, packed),) = shop.rows(shop.book._core.profiles, Profiles.table)
    looked = profile_of([one for one in shop.history() if one.event.subject_id == ada], lambda _: True)
    assert looked is not None
    assert looked.packed() == packed
    assert looked.entries["owner"][3] == "o5"
    shop.close()


def test_at_the_same_moment_the_later_position_counts() -> None:
    envelope: dict[str, Any] = {
        "originator_id": UUID(int=1), "event_id": UUID(int=2), "effective_us": 5, "subject_id": UUID(int=1),
        "metadata": Metadata(recorded_us=0, actor="a", purpose="p"),
    }  # fmt: skip
    history = [
        Recorded(1, CustomerRegistered(**envelope, originator_version=1, kind="person", owner="a")),
        Recorded(2, CustomerChanged(**envelope, originator_version=2, owner="b")),
        Recorded(3, CustomerChanged(**envelope, originator_version=3, cleared=("owner",))),
    ]
    for count, wanted in ((1, "a"), (2, "b"), (3, None)):
        profile = profile_of(history[:count], lambda _: True)
        assert profile is not None
        assert profile.entries["owner"][3] == wanted
