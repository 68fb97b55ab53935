"""What a data subject said about the use of their data: guards with their codes, and consents by effective time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallybook.domain.aggregate import Stamp
from tallybook.domain.customer import Customer, CustomerKind
from tallybook.domain.errors import REFUSALS, Refused
from tallybook.domain.events import Event, Metadata
from tallybook.domain.privacy import (
    ConsentConfirmed,
    ConsentGranted,
    ConsentWithdrawn,
    Objected,
    ObjectionTo,
    RequestKind,
    RequestOutcome,
    consents_at,
)

CUSTOMER = UUID(int=77)
UNKNOWN = UUID(int=5)
GRANT: dict[str, Any] = {
    "point_id": None, "brand": None, "basis": "consent", "source": "web", "text_version": "v1", "captured_us": None,
    "from_us": None, "until_us": None, "separate": False, "cross_border": False, "confirmed": True,
}  # fmt: skip
_IDS = count(1000)


def stamp(at_us: int = 0, *, given: bool = True) -> Stamp:
    metadata = Metadata(recorded_us=1, actor="agent:test", purpose="test")
    return Stamp(metadata, at_us, lambda: UUID(int=next(_IDS)), given=given)


def registered() -> Customer:
    customer = Customer(CUSTOMER).draft([])
    customer.register(stamp(), CustomerKind.PERSON, key_id=1, commitment=b"c", fields={})
    return customer


def grant(customer: Customer, at_us: int, purpose: str = "marketing", **given_fields: Any) -> UUID:
    return customer.grant_consent(stamp(at_us), purpose, **{**GRANT, **given_fields}).event_id


def withdraw(customer: Customer, at_us: int, purpose: str = "marketing", **key: Any) -> None:
    customer.withdraw_consent(stamp(at_us), purpose, **{"point_id": None, "brand": None, **key})


def refused(code: str, act: Callable[[], object], customer: Customer) -> Refused:
    """The act is refused with a code, and records nothing."""
    before = list(customer.journal or ())
    with pytest.raises(Refused) as error:
        act()
    assert error.value.code == code
    assert type(error.value) is REFUSALS[code].error
    assert customer.journal == before
    return error.value


def versions(customer: Customer, at_us: int, purpose: str = "marketing") -> list[str]:
    """Text versions of the consents in force, by the state and by the pure function alike."""
    found = [one.text_version for one in customer.consents.in_force(at_us, purpose)]
    events = list(enumerate(customer.journal or (), 1))
    assert found == [one.text_version for one in consents_at(events, at_us) if one.purpose == purpose]
    return found


def test_a_consent_is_in_force_from_when_it_was_given() -> None:
    ada = registered()
    grant(ada, 100)
    assert (versions(ada, 99), versions(ada, 100), versions(ada, 100, "profiling")) == ([], ["v1"], [])


def test_a_withdrawal_ends_it_and_does_not_act_backwards() -> None:
    ada = registered()
    grant(ada, 100)
    withdraw(ada, 200)
    assert (versions(ada, 199), versions(ada, 200)) == (["v1"], [])


def test_it_holds_within_its_own_time() -> None:
    ada = registered()
    grant(ada, 100, from_us=150, until_us=200)
    assert [versions(ada, at_us) for at_us in (149, 150, 199, 200)] == [[], ["v1"], ["v1"], []]


def test_without_its_confirmation_it_is_not_in_force() -> None:
    ada = registered()
    consent = grant(ada, 100, confirmed=False)
    assert versions(ada, 500) == []
    ada.confirm_consent(stamp(300), consent)
    assert (versions(ada, 299), versions(ada, 300)) == ([], ["v1"])


def test_a_consent_learned_of_late_was_ended_by_the_withdrawal_that_came_after_it() -> None:
    ada = registered()
    grant(ada, 100)
    withdraw(ada, 200)
    grant(ada, 150, text_version="paper")
    grant(ada, 250, text_version="v2")
    assert (versions(ada, 160), versions(ada, 200), versions(ada, 250)) == (["v1", "paper"], [], ["v2"])


def test_a_late_withdrawal_counts_from_when_it_was_said() -> None:
    ada = registered()
    grant(ada, 100)
    withdraw(ada, 300)
    withdraw(ada, 200)
    assert (versions(ada, 199), versions(ada, 200)) == (["v1"], [])


def test_what_the_book_did_not_know_does_not_count() -> None:
    ada = registered()
    grant(ada, 100)
    withdraw(ada, 200)
    events = list(enumerate(ada.journal or (), 1))
    assert len(consents_at(events, 250)) == 0
    assert len(consents_at(events, 250, lambda recorded: recorded[0] < len(events))) == 1


def test_a_withdrawal_for_one_contact_point_or_brand_leaves_the_others() -> None:
    ada = registered()
    point = ada.add_contact_point(stamp(), "email", "ada@example.org").point_id
    grant(ada, 100, text_version="all")
    grant(ada, 100, text_version="mail", point_id=point)
    grant(ada, 100, text_version="brand", brand="north")
    withdraw(ada, 200, point_id=point)
    assert versions(ada, 200) == ["all", "brand"]
    withdraw(ada, 300, brand="north")
    assert versions(ada, 300) == ["all"]
    withdraw(ada, 400)
    assert versions(ada, 400) == []


def test_an_objection_to_marketing_ends_its_consents_and_no_others() -> None:
    ada = registered()
    grant(ada, 100)
    grant(ada, 100, "profiling")
    ada.object_to(stamp(200), ObjectionTo.MARKETING)
    assert (versions(ada, 200), versions(ada, 200, "profiling")) == ([], ["v1"])
    ada.withdraw_objection(stamp(300), ObjectionTo.MARKETING)
    assert versions(ada, 300) == []
    grant(ada, 400, text_version="v2")
    assert versions(ada, 400) == ["v2"]


def test_of_several_consents_the_last_given_names_the_text() -> None:
    ada = registered()
    grant(ada, 200, text_version="v2")
    grant(ada, 100, text_version="v1")
    assert (ada.text_version_for("marketing", 300), ada.text_version_for("other", 300)) == ("v2", None)


@given(st.permutations(range(6)))
@settings(max_examples=200)
def test_the_order_of_learning_changes_nothing(order: list[int]) -> None:
    ada = registered()
    metadata = stamp().metadata

    def made(kind: type[Event], at_us: int, number: int, **fields: Any) -> Event:
        return kind(
            originator_id=CUSTOMER, originator_version=number + 10, event_id=UUID(int=number + 1), effective_us=at_us,
            subject_id=CUSTOMER, metadata=metadata, **fields,
        )  # fmt: skip

    def granted(at_us: int, number: int, **fields: Any) -> Event:
        details = {**GRANT, "purpose": "marketing", "captured_us": at_us, "from_us": at_us, **fields}
        return made(ConsentGranted, at_us, number, **details)

    events = [
        granted(100, 0),
        made(ConsentWithdrawn, 200, 1, purpose="marketing", point_id=None, brand=None),
        granted(300, 2, text_version="v2", confirmed=False),
        granted(310, 3, text_version="v3", brand="north"),
        made(Objected, 500, 4, to="marketing"),
        made(ConsentWithdrawn, 400, 5, purpose="marketing", point_id=None, brand="north"),
    ]
    confirmation = made(ConsentConfirmed, 350, 6, consent_id=UUID(int=3))
    shuffled = [events[index] for index in order]
    # A consent is known before its confirmation.
    shuffled.insert(shuffled.index(events[2]) + 1, confirmation)
    recorded = list(enumerate(shuffled, 1))
    for at_us, wanted in ((150, {"v1"}), (250, set()), (320, {"v3"}), (360, {"v2", "v3"}), (450, {"v2"}), (500, set())):
        assert {one.text_version for one in consents_at(recorded, at_us)} == wanted
    for event in shuffled:
        ada.apply(event)
    assert set(ada.consents.in_force(360)) == set(consents_at(recorded, 360))


def test_guards_of_consents() -> None:
    ada = registered()
    nobody = Customer(UNKNOWN).draft([])
    refused("unknown_customer", partial(grant, nobody, 1), nobody)
    refused("unknown_contact_point", partial(grant, ada, 1, point_id=UNKNOWN), ada)
    wrong_times: list[dict[str, Any]] = [{"captured_us": 101}, {"captured_us": 50, "from_us": 49}, {"until_us": 100}]
    for wrong in wrong_times:
        refused("invalid_argument", partial(grant, ada, 100, **wrong), ada)
    refused("unknown_consent", partial(withdraw, ada, 100), ada)
    consent = grant(ada, 100, confirmed=False)
    refused("unknown_consent", partial(withdraw, ada, 99), ada)
    refused("unknown_consent", partial(withdraw, ada, 100, "profiling"), ada)
    refused("unknown_consent", lambda: ada.confirm_consent(stamp(100), UNKNOWN), ada)
    refused("effective_too_early", lambda: ada.confirm_consent(stamp(99), consent), ada)
    ada.confirm_consent(stamp(100), consent)
    refused("consent_confirmed", lambda: ada.confirm_consent(stamp(100), consent), ada)
    withdraw(ada, 200)
    refused("unknown_consent", partial(withdraw, ada, 200), ada)
    later = grant(ada, 300, confirmed=False)
    withdraw(ada, 400)
    refused("unknown_consent", lambda: ada.confirm_consent(stamp(400), later), ada)
    ada.confirm_consent(stamp(399), later)


def test_where_nobody_gave_a_time_what_happens_now_comes_after_what_it_rests_on() -> None:
    ada = registered()
    grant(ada, 100)
    ada.withdraw_consent(stamp(50, given=False), "marketing", point_id=None, brand=None)
    assert versions(ada, 100) == []


def test_guards_of_restriction_and_objection() -> None:
    ada = registered()
    nobody = Customer(UNKNOWN).draft([])
    refused("unknown_customer", lambda: nobody.restrict(stamp(), "unlawful"), nobody)
    refused("not_restricted", lambda: ada.lift_restriction(stamp(), None), ada)
    ada.restrict(stamp(100), "unlawful")
    assert ada.restricted
    refused("already_restricted", lambda: ada.restrict(stamp(100), "claims"), ada)
    refused("effective_too_early", lambda: ada.lift_restriction(stamp(99), None), ada)
    ada.lift_restriction(stamp(200), "claims")
    assert not ada.restricted
    refused("not_restricted", lambda: ada.lift_restriction(stamp(300), None), ada)
    refused("effective_too_early", lambda: ada.restrict(stamp(150), "unlawful"), ada)
    automated = ObjectionTo.AUTOMATED_DECISIONS
    refused("no_objection", lambda: ada.withdraw_objection(stamp(), automated), ada)
    ada.object_to(stamp(100), automated)
    assert (ada.objects_to(automated), ada.objects_to(ObjectionTo.MARKETING)) == (True, False)
    refused("already_objected", lambda: ada.object_to(stamp(100), automated), ada)
    refused("effective_too_early", lambda: ada.withdraw_objection(stamp(99), automated), ada)
    ada.withdraw_objection(stamp(200), automated)
    assert not ada.objects_to(automated)
    refused("no_objection", lambda: ada.withdraw_objection(stamp(300), automated), ada)
    refused("effective_too_early", lambda: ada.object_to(stamp(150), automated), ada)


def test_guards_of_requests() -> None:
    ada = registered()
    refused("invalid_argument", lambda: ada.receive_request(stamp(100), RequestKind.ACCESS, None, 100), ada)
    request = ada.receive_request(stamp(100), RequestKind.ACCESS, "mail", None).event_id
    done, refusal_ = RequestOutcome.FULFILLED, RequestOutcome.REFUSED
    refused("unknown_request", lambda: ada.complete_request(stamp(100), UNKNOWN, done, None), ada)
    refused("invalid_argument", lambda: ada.complete_request(stamp(100), request, refusal_, None), ada)
    refused("effective_too_early", lambda: ada.complete_request(stamp(99), request, done, None), ada)
    ada.complete_request(stamp(200), request, refusal_, "manifestly_unfounded")
    refused("request_completed", lambda: ada.complete_request(stamp(300), request, done, None), ada)


def test_a_request_is_due_within_a_calendar_month() -> None:
    ada = registered()
    jan_31 = 1_706_659_200_000_000
    ada.receive_request(stamp(jan_31), RequestKind.ERASURE, None, None)
    assert ada.requests[0].due_us == jan_31 + 29 * 86_400_000_000
