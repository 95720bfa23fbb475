"""`make audit` says what is known, and what could not be asked."""

from __future__ import annotations

import pytest

from saju_ops_tests.audit import asks_more, judged, licence, needed


def test_what_was_skipped_is_never_taken_for_safe() -> None:
    known, asked = judged([{"name": "a", "skip_reason": "not found"}, {"name": "b", "skip_reason": "not found"}])
    assert known == []
    assert asked.startswith("NOT AUDITED: the database could not be reached")
    known, asked = judged([{"name": "a", "version": "1", "vulns": []}, {"name": "b", "skip_reason": "not found"}])
    assert (known, asked) == ([], "1 packages were looked up; NOT AUDITED: b.")


def test_a_known_weakness_is_named_with_the_version_that_mends_it() -> None:
    found = {"name": "a", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"]}]}
    assert judged([found])[0] == ["a 1: PYSEC-1, mended in 2"]


@pytest.mark.parametrize(
    ("text", "more"),
    [
        ("GPL-3.0-only", True), ("AGPL-3.0", True), ("GNU General Public License v2 (GPLv2)", True),
        ("LGPL-3.0-only", False), ("GNU Lesser General Public License v3 (LGPLv3)", False), ("MIT", False),
        ("MIT OR GPL-2.0", False), ("MPL-2.0", False), ("UNKNOWN", False),
    ],
)  # fmt: skip
def test_which_licences_ask_more_of_users_than_ours(text: str, more: bool) -> None:
    assert asks_more(text) is more


def test_every_package_that_users_install_says_its_licence_and_none_asks_more() -> None:
    found = {package.name: licence(package) for package in needed()}
    assert len(found) > 50
    assert [name for name, text in found.items() if text == "UNKNOWN" or asks_more(text)] == []
