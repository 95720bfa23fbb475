"""How far a clean-up is said to be, from the runs that Dagster knows."""

from __future__ import annotations

from itertools import count

import pytest

from saju_ops.trigger.limits import Bucket
from saju_ops.trigger.state import ARCHIVE_JOB, PURGE_JOB, State, cleanup_state, job_state
from saju_ops.trigger.webserver import Run

NOW = 1_800_000_000.0
ids = count()


def run(job: str, status: str, days: str = "a", of: int = 1, age: float = 1.0, **tags: str) -> Run:
    """A run that was queued, and, if it ended, ended `age` seconds ago."""
    marks = {
        "dagster/asset_partition_range_start": days, "dagster/asset_partition_range_end": days,
        "saju_ops/cleanup": "c", "saju_ops/cleanup_runs": str(of), **tags,
    }  # fmt: skip
    ended = NOW - age if status in ("SUCCESS", "FAILURE", "CANCELED") else None
    return Run(f"run-{next(ids)}", job, status, marks, created=NOW - age, started=None, ended=ended)


def archive(status: str, days: str = "a", of: int = 1, age: float = 1.0) -> Run:
    return run(ARCHIVE_JOB, status, days, of, age)


def cleanup(*runs: Run) -> State:
    """The runs as they were launched; Dagster lists the newest first."""
    return cleanup_state(list(reversed(runs)), NOW)


@pytest.mark.parametrize(
    ("runs", "state", "going", "done"),
    [
        ([archive("QUEUED")], "queued", True, False),
        ([archive("NOT_STARTED")], "queued", True, False),
        ([archive("STARTING")], "running", True, False),
        ([archive("STARTED")], "running", True, False),
        ([archive("CANCELING")], "running", True, False),
        ([archive("SUCCESS")], "waiting_for_purge", True, False),
        ([archive("SUCCESS", age=599)], "waiting_for_purge", True, False),
        ([archive("SUCCESS", age=601)], "purge_missing", False, False),
        ([archive("FAILURE")], "failed", False, True),
        ([archive("CANCELED")], "canceled", False, True),
        ([archive("SUCCESS", "a", 2), archive("QUEUED", "b", 2)], "running", True, False),
        ([archive("FAILURE", "a", 2), archive("STARTED", "b", 2)], "running", True, False),
        ([archive("FAILURE", "a", 2), archive("SUCCESS", "b", 2)], "failed", False, True),
        ([archive("CANCELED", "a", 2), archive("FAILURE", "b", 2)], "failed", False, True),
        ([archive("SUCCESS", "a", 3)], "running", True, False),
        ([archive("QUEUED", "a", 3)], "queued", True, False),
        ([archive("CANCELED", "a", 3)], "canceled", False, True),
        ([archive("QUEUED", "a", 3, age=121)], "incomplete", False, False),
        ([archive("SUCCESS", "a", 3, age=121)], "incomplete", False, True),
        ([archive("FAILURE"), archive("QUEUED")], "queued", True, False),
        ([archive("FAILURE"), archive("SUCCESS")], "waiting_for_purge", True, False),
        ([archive("SUCCESS"), run(PURGE_JOB, "QUEUED")], "purging", True, False),
        ([archive("SUCCESS", age=9999), run(PURGE_JOB, "STARTED")], "purging", True, False),
        ([archive("SUCCESS"), run(PURGE_JOB, "SUCCESS")], "succeeded", False, True),
        ([archive("SUCCESS"), run(PURGE_JOB, "FAILURE")], "failed", False, True),
        ([archive("SUCCESS"), run(PURGE_JOB, "CANCELED")], "canceled", False, True),
        ([archive("SUCCESS"), run(PURGE_JOB, "FAILURE"), run(PURGE_JOB, "STARTED")], "purging", True, False),
    ],
    ids=str,
)
def test_the_state_of_a_clean_up(runs: list[Run], state: str, going: bool, done: bool) -> None:
    found = cleanup(*runs)
    assert (found.state, found.going, found.done) == (state, going, done)
    assert found.message.endswith(".")


def test_a_failed_archive_names_the_run_and_says_that_nothing_is_purged() -> None:
    failed = archive("FAILURE", "b", 2)
    assert cleanup(archive("SUCCESS", "a", 2), failed).message == (
        f"Archive run {failed.run_id[:8]} failed; nothing is purged until it is run again."
    )


@pytest.mark.parametrize(
    ("statuses", "state"),
    [
        (["QUEUED"], "queued"),
        (["QUEUED", "SUCCESS"], "running"),
        (["STARTED"], "running"),
        (["SUCCESS", "SUCCESS"], "succeeded"),
        (["SUCCESS", "FAILURE"], "failed"),
        (["CANCELED"], "canceled"),
    ],
)
def test_the_state_of_a_job(statuses: list[str], state: str) -> None:
    parts = {"saju_ops/trigger": "t"}
    runs = [run("x", s, **parts, **{"saju_ops/trigger_part": str(n)}) for n, s in enumerate(statuses)]
    assert job_state(runs).state == state


def test_a_part_of_a_job_that_was_run_again_counts_as_it_ended_then() -> None:
    part = {"saju_ops/trigger": "t", "saju_ops/trigger_part": "1"}
    failed, again = run("x", "FAILURE", **part), run("x", "SUCCESS", **part)
    assert job_state([again, failed]).state == "succeeded"


def test_a_bucket_lets_a_burst_through_and_then_so_many_a_minute() -> None:
    now = [0.0]
    bucket = Bucket(6, clock=lambda: now[0])
    assert [bucket.take() for _ in range(7)] == [0] * 6 + [10]
    now[0] = 9.0
    assert bucket.take() == 1
    now[0] = 10.0
    assert (bucket.take(), bucket.take()) == (0, 10)
    now[0] = 10_000.0
    assert [bucket.take() for _ in range(7)] == [0] * 6 + [10]
