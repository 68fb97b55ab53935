"""Masks: what of a value is shown, and nothing more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallybook.domain.masks import HIDDEN, LAST, LAST_OF_MIN, masked
from tallybook.domain.policy import known_fields

SHOWN = {
    ("birth_date", "1815-12-10"): "1815",
    ("birth_date", "--12-10"): HIDDEN,
    ("birth_date", "1815"): HIDDEN,
    ("birth_date", "١٨١٥-12-10"): HIDDEN,
    ("contact.email", "ada@example.org"): "…@example.org",
    ("contact.email", "a@b.example.org"): "…@b.example.org",
    ("contact.email", '"a@b"@example.org'): "…@example.org",
    ("contact.email", "ada@bücher.example"): "…@bücher.example",
    ("contact.email", "@example.org"): HIDDEN,
    ("contact.email", "ada@"): HIDDEN,
    ("contact.email", "ada@localhost"): HIDDEN,
    ("contact.email", "ada@ex ample.org"): HIDDEN,
    ("contact.email", "ada"): HIDDEN,
    ("contact.phone", "+49 (30) 1234-5678"): "…5678",
    ("contact.phone", "1234567"): HIDDEN,
    ("contact.phone", "call me at 12345678"): HIDDEN,
    ("contact.wechat", "ada_lovelace"): HIDDEN,
    ("contact.other", "ada@example.org"): "…@example.org",
    ("identifier.crm", "CUST-12345678"): "…5678",
    ("identifier.crm", "1234567"): HIDDEN,
    ("identifier.crm", "12345678"): "…5678",
    ("identifier.crm", "客户编号一二三四五六"): "…三四五六",
    ("order_id", "2024-000123"): "…0123",
    ("order_id", "1234567\n89"): HIDDEN,
    ("order_id", "abcdefgé́"): HIDDEN,
    ("source_ref", "0123456789abcdef:12"): "…f:12",
    ("name", "Ada Lovelace"): "A. L.",
    ("name", "Ada"): "A.",
    ("name", "Jean-Luc  Picard"): "J. L. P.",
    ("name", "Élodie O'Neil"): "É. O.",
    ("name", "李 小龙"): "李. 小.",
    ("name", "A"): HIDDEN,
    ("name", "A B"): HIDDEN,
    ("name", "- ! 😀"): HIDDEN,
    ("name", " "): HIDDEN,
    ("note", "anything"): HIDDEN,
    ("income_band", "high"): HIDDEN,
    ("text", "anything"): HIDDEN,
    ("unheard of", "anything"): HIDDEN,
}


@pytest.mark.parametrize(("field", "value"), SHOWN)
def test_a_mask_shows_what_it_is_named_for(field: str, value: str) -> None:
    assert masked(field, value).text == SHOWN[field, value]
    assert str(masked(field, value)) == masked(field, value).text


@pytest.mark.parametrize("field", [*known_fields(), "contact.fax"])
@pytest.mark.parametrize("value", ["", " ", "x", "\0", "\ud800", 5, None, b"bytes", ["a"]])
def test_what_is_odd_shows_nothing(field: str, value: object) -> None:
    assert masked(field, value).text == HIDDEN


@given(st.sampled_from([*known_fields(), "contact.fax"]), st.text(max_size=60))
def test_a_mask_never_raises_and_never_shows_the_value_whole(field: str, value: str) -> None:
    shown = masked(field, value).text
    assert shown == HIDDEN or value.strip() not in shown


@given(
    st.sampled_from(["identifier.crm", "order_id", "source_ref", "contact.phone"]), st.text("0123456789", max_size=40)
)
def test_no_more_than_the_last_four_are_shown_and_they_do_not_tell_how_many_there_were(field: str, value: str) -> None:
    shown = masked(field, value).text
    assert shown == (f"…{value[-LAST:]}" if len(value) >= LAST_OF_MIN else HIDDEN)


@given(st.sampled_from(["name", "note", "gender"]), st.text("abc", min_size=2, max_size=40))
def test_values_of_any_length_look_alike(field: str, value: str) -> None:
    assert masked(field, value) == masked(field, value[0] * 2)
