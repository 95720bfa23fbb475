"""What a token holds: our JSON, the service's with other names, plain or with base64 around it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.fernet import Fernet

from saju_ops.schema.birth_data.tokens import (
    Birth,
    birth_in,
    encrypted,
    holds_no_more_than_the_columns,
    opened,
    payload_of,
    says_the_same,
)
from saju_ops_tests.schema.birth_data.scene import NEW_KEY, OLD_KEY, OTHER_KEY, parsed, token

MOMENT = "1990-05-05 09:30:00"


def test_the_json_has_the_names_of_the_columns() -> None:
    payload = payload_of(Birth("1990-05-05 09:30:00.250000", True, None), {"is_lunar": True, "is_leap_month": True})
    assert json.loads(payload) == {
        "birth_datetime": "1990-05-05T09:30:00.250000", "is_lunar": True, "is_leap_month": None,
    }  # fmt: skip
    assert birth_in(payload) == Birth("1990-05-05T09:30:00.250000", True, None)


def test_both_forms_are_opened_by_whichever_key_fits() -> None:
    keys = parsed(NEW_KEY, OLD_KEY)
    for double in (False, True):
        for key, place in ((NEW_KEY, 1), (OLD_KEY, 2)):
            stored = token({"a": 1}, key, double=double).encode()
            assert stored.startswith(b"Z0FBQUFB" if double else b"gAAAAA")
            found = opened(stored + b"\n", keys)
            assert found is not None
            assert (found.key.place, found.payload, found.is_double) == (place, b'{"a": 1}', double)
    assert opened(token({"a": 1}, OTHER_KEY).encode(), keys) is None


@pytest.mark.parametrize("stored", [b"", b"1990-05-05 09:30", b"gAAAAA", b"Z0FBQUFB", b"Z0FBQUFB!!!", b"\xff\xfe"])
def test_what_is_no_token_is_opened_by_none(stored: bytes) -> None:
    assert opened(stored, parsed(NEW_KEY)) is None


def test_what_we_write_is_read_by_the_services_own_way() -> None:
    import base64

    (key,) = parsed(NEW_KEY)
    plain, double = (encrypted(b'{"x": 1}', key, double=form) for form in (False, True))
    assert Fernet(NEW_KEY).decrypt(plain) == b'{"x": 1}'
    assert Fernet(NEW_KEY).decrypt(base64.b64decode(double)) == b'{"x": 1}'


@pytest.mark.parametrize(
    "payload",
    [
        {"birth_datetime": "1990-05-05T09:30:00", "is_lunar": False, "is_leap_month": False},
        {"birthDatetime": "1990-05-05T09:30:00", "isLunar": False, "isLeapMonth": False},
        {"birth_date": "1990-05-05", "birth_time": "09:30", "gender": "F"},
        {"date": "1990-05-05", "time": "09:30:00", "name": "홍길동"},
        {"year": 1990, "month": 5, "day": 5, "hour": 9, "minute": 30, "is_lunar": False},
        {"birth_year": "1990", "birth_month": "5", "birth_day": "5", "birth_hour": "9", "birth_minute": "30"},
        {"birth_data": {"birth_datetime": "1990-05-05 09:30:00"}, "location": {"city": "서울"}},
        "1990-05-05T09:30:00",
        '"1990-05-05 09:30"',
    ],
)
def test_a_birth_is_found_whatever_the_service_calls_it(payload: Any) -> None:
    text = payload if isinstance(payload, str) else json.dumps(payload, ensure_ascii=False)
    found = birth_in(text.encode())
    assert found is not None
    assert says_the_same(Birth(MOMENT, False, False), found)
    assert not says_the_same(Birth("1990-05-05 09:31:00", False, False), found)


@pytest.mark.parametrize(
    "payload", ["{}", "[1]", '{"name": "홍길동"}', '{"birth_date": "1990"}', "12", "text", "\ud800"]
)
def test_what_is_no_birth_is_not_taken_for_one(payload: str) -> None:
    assert birth_in(payload.encode("utf-8", "surrogatepass")) is None


def test_every_digit_of_a_fraction_counts_and_a_zero_at_its_end_does_not() -> None:
    def same(one: str, other: str) -> bool:
        return says_the_same(Birth(one), Birth(other))

    assert same("1990-05-05 09:30:00", "1990-05-05T09:30:00.000000")
    assert same("1990-05-05 09:30:00.5", "1990-05-05T09:30:00.500")
    assert not same("1990-05-05 09:30:00.5", "1990-05-05T09:30:00")
    assert not same("1990-05-05 09:30:00.1234567", "1990-05-05T09:30:00.1234568")
    assert same("0000-00-00 00:00:00", "0000-00-00 00:00:00")
    assert not same("1990-05-05 09:30:00", "1990-05-05T09:30:00+09:00")


def test_a_flag_that_differs_is_another_birth_and_one_that_is_not_said_is_none() -> None:
    clear = Birth(MOMENT, True, False)
    assert says_the_same(clear, Birth(MOMENT, True, None))
    assert not says_the_same(clear, Birth(MOMENT, False, None))


def test_only_a_token_without_more_than_the_columns_may_be_replaced() -> None:
    assert holds_no_more_than_the_columns(b'{"birth_datetime": "1990-05-05T09:30:00", "is_lunar": true}')
    assert not holds_no_more_than_the_columns(b'{"birth_datetime": "1990-05-05T09:30:00", "gender": "F"}')
    assert not holds_no_more_than_the_columns(b"1990-05-05")
