"""ENCRYPTION_KEY: several keys, each looked at by itself, none of them ever shown."""

from __future__ import annotations

import base64

import pytest
from cryptography.fernet import Fernet

from saju_ops.errors import Refused
from saju_ops.schema.birth_data.keys import parse_keys, required_keys
from saju_ops_tests.schema.birth_data.scene import NEW_KEY, OLD_KEY


def test_fernet_takes_two_keys_with_a_comma_for_one_and_we_split_them() -> None:
    both = f"{NEW_KEY},{OLD_KEY}"
    Fernet(both)  # without a word
    first, second = parse_keys(f" {NEW_KEY} ,\n{OLD_KEY}")
    assert (first.place, second.place) == (1, 2)
    assert Fernet(OLD_KEY).decrypt(second.fernet.encrypt(b"x")) == b"x"
    assert Fernet(NEW_KEY).decrypt(first.fernet.encrypt(b"x")) == b"x"


def test_a_key_that_is_named_twice_is_one_key() -> None:
    assert [key.place for key in parse_keys(f"{NEW_KEY},{NEW_KEY},{OLD_KEY}")] == [1, 3]


def test_a_key_in_the_usual_alphabet_of_base64_is_one_as_fernet_has_it() -> None:
    raw = bytes([251, 255] * 16)
    usual = base64.b64encode(raw).decode()
    assert "+" in usual
    assert "/" in usual
    (key,) = parse_keys(usual)
    assert key.fernet.decrypt(Fernet(usual).encrypt(b"x")) == b"x"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("hunter2hunter2", "key 1 of 1 has 14 characters"),
        (f"{NEW_KEY},", "key 2 of 2 is empty"),
        (f"{NEW_KEY};{OLD_KEY}", "has 89 characters"),
        (f"{NEW_KEY},{OLD_KEY[:-2]}", "key 2 of 2 has 42 characters"),
        ("가" * 44, "is not base64"),
        (NEW_KEY[:20] + " " + NEW_KEY[21:], "is not base64"),
        (NEW_KEY[:-1] + "A", "is not base64"),
        ("=" + NEW_KEY[1:], "is not base64"),
    ],
)
def test_a_bad_key_is_refused_by_its_place_and_without_its_value(value: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refused:
        parse_keys(value)
    assert all(part[:8] not in str(refused.value) for part in value.split(",") if len(part) > 8)


def test_a_fingerprint_names_a_key_and_holds_nothing_of_it() -> None:
    (one,), (same,), (other,) = parse_keys(NEW_KEY), parse_keys(NEW_KEY), parse_keys(OLD_KEY)
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert len(one.fingerprint) == 8
    raw = base64.urlsafe_b64decode(NEW_KEY)
    assert one.fingerprint not in raw.hex()
    assert NEW_KEY not in repr(one)
    assert repr(one) == f"Key({one.fingerprint})"


def test_without_a_key_the_refusal_says_how_to_make_one() -> None:
    with pytest.raises(Refused, match=r"ENCRYPTION_KEY is not set.*Nothing was touched.*generate_key"):
        required_keys(())
