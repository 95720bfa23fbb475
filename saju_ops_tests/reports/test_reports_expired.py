"""Why expired jobs and sessions stayed, as operators read it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import saju_ops.expired
from saju_ops.expired.sessions import ARCHIVED_NOT
from saju_ops.reports.expired import in_korean
from saju_ops.rows.unseen_keys import DOUBT

HANGUL = re.compile(r"[가-힣]")


@pytest.mark.parametrize(
    "reason",
    [
        ARCHIVED_NOT,
        "a row of jobs that has not expired hangs on it",
        "a row of other.payments came or changed after it was archived",
        "its rows can't be archived (it is too large)",
        "its S3 key is outside JOBS_S3_PREFIX",
        "S3 did not delete a file (AccessDenied)",
        "S3 did not say that a file was deleted",
        "its versions could not be listed",
        "S3 can't be used (NoSuchBucket)",
        "the server deleted 0 rows of jobs where 2 were found and locked",
        "the server kept 2 rows of sms_logs in a DELETE; a trigger or rule may do so",
        "the first 200000 expired ones were looked at",
        "the database refused (Lock wait timeout exceeded)",
        "the database was locked by others (database is locked)",
        "max_jobs (5) reached",
        "max_runtime_seconds (60) reached",
        "cancelled by the operator",
        "The table coupons has a column job_id, but no foreign key leads from it to jobs, and PURGE_TABLES doesn't name"
        " it: its rows stay.",
        DOUBT,
    ],
)
def test_every_reason_is_shown_in_korean(reason: str) -> None:
    assert HANGUL.search(in_korean(reason))


@pytest.mark.parametrize("name", ["payments", "AccessDenied", "60", "too large"])
def test_what_a_reason_names_stays_in_it(name: str) -> None:
    reasons = {
        "payments": "a row of payments came or changed after it was archived",
        "AccessDenied": "S3 did not delete a file (AccessDenied)",
        "60": "max_runtime_seconds (60) reached",
        "too large": "its rows can't be archived (it is too large)",
    }
    assert name in in_korean(reasons[name])


def test_a_reason_without_a_translation_is_shown_as_it_is() -> None:
    assert in_korean("something else") == "something else"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("jobs.py", "came or changed after it was archived"),
        ("finding.py", "that has not expired hangs on it"),
        ("job_files.py", "S3 did not say that a file was deleted"),
        ("job_files.py", "S3 can't be used ("),
        ("dependents.py", " found and locked"),
        ("dependents.py", "in a DELETE; a trigger or rule may do so"),
        ("batches.py", "expired ones were looked at"),
        ("batches.py", "the database was locked by others"),
    ],
)
def test_the_reasons_are_those_that_the_code_gives(file: str, text: str) -> None:
    assert text in (Path(saju_ops.expired.__path__[0]) / file).read_text(encoding="utf-8")
