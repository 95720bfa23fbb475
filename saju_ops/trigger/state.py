"""How far a clean-up, or the runs of one call, have come: a verdict over runs, without any memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from saju_ops.tags import CLEANUP_RUNS, RANGE_END, RANGE_START, TRIGGER, TRIGGER_PART
from saju_ops.trigger.webserver import Run
from saju_ops.words import counted, have, were

ARCHIVE_JOB = "archive_conversation_logs"
PURGE_JOB = "purge_conversation_logs"
# The sensor looks every 30 seconds; after so long it is stopped, or the daemon is down.
PURGE_PATIENCE = 600.0
# Between two launches of one clean-up; after so long its starter has died.
START_PATIENCE = 120.0
ENDED = {"SUCCESS": "succeeded", "FAILURE": "failed", "CANCELED": "canceled"}


@dataclass(frozen=True)
class State:
    """`going` says whether another call joins it. `done` is final unless somebody launches a run again."""

    state: str
    going: bool
    done: bool
    message: str


def cleanup_state(runs: Sequence[Run], now: float) -> State:
    """The state of one clean-up, from its runs, newest first. `now` in seconds since 1970, as Dagster's times are."""
    archives = latest_per_range([r for r in runs if r.job == ARCHIVE_JOB])
    purge = next((r for r in runs if r.job == PURGE_JOB), None)
    if purge is not None:
        return _of_purge(purge)
    expected = max((_number(r.tags.get(CLEANUP_RUNS)) for r in archives), default=1)
    missing = len(archives) < expected
    given_up = missing and now - max((r.created for r in archives), default=0) > START_PATIENCE
    if any(r.active for r in archives):
        return _incomplete(archives, expected, done=False) if given_up else _under_way(archives)
    for status, state in (("FAILURE", "failed"), ("CANCELED", "canceled")):
        if found := [r for r in archives if r.status == status]:
            return State(
                state, going=False, done=True,
                message=f"Archive run {found[0].run_id[:8]} {_verb(state)}; nothing is purged until it is run again.",
            )  # fmt: skip
    if missing:
        return _incomplete(archives, expected, done=True) if given_up else _under_way(archives)
    if now - max((r.ended or r.created for r in archives), default=0) < PURGE_PATIENCE:
        return State("waiting_for_purge", going=True, done=False, message="Archived; the purge starts within a minute.")
    return State(
        "purge_missing", going=False, done=False,
        message="Archived, but the purge was not started: the sensor purge_after_archive or the daemon is not running.",
    )  # fmt: skip


def _of_purge(purge: Run) -> State:
    if purge.active:
        return State("purging", going=True, done=False, message="Archived; what is proven is being purged.")
    state = ENDED[purge.status]
    message = "Archived and purged." if state == "succeeded" else f"Archived; purge run {purge.run_id[:8]} "
    if state != "succeeded":
        message += f"{_verb(state)}. What it had not deleted is still there."
    return State(state, going=False, done=True, message=message)


def _incomplete(archives: Sequence[Run], expected: int, *, done: bool) -> State:
    started = f"Only {len(archives)} of {counted(expected, 'archive run')} {were(expected)} started"
    return State("incomplete", going=False, done=done, message=f"{started}; nothing is purged. Call again.")


def _under_way(runs: Sequence[Run]) -> State:
    if any(r.status not in ("QUEUED", "NOT_STARTED") for r in runs):
        return State("running", going=True, done=False, message="The archive is being written.")
    return State("queued", going=True, done=False, message="Waiting in Dagster's queue.")


def job_state(runs: Sequence[Run]) -> State:
    """The state of a job, from the runs that one call started, newest first. A part that was run again counts by its
    last end."""
    latest = list({_part(r): r for r in reversed(runs)}.values())
    if active := [r for r in latest if r.active]:
        queued = all(r.status in ("QUEUED", "NOT_STARTED") for r in latest)
        left = f"{len(active)} of {counted(len(latest), 'run')} {have(len(latest))} not ended."
        text = "Waiting in Dagster's queue." if queued else left
        return State("queued" if queued else "running", going=True, done=False, message=text)
    for status in ("FAILURE", "CANCELED"):
        if found := [r for r in latest if r.status == status]:
            state = ENDED[status]
            return State(state, going=False, done=True, message=f"Run {found[0].run_id[:8]} {_verb(state)}.")
    return State("succeeded", going=False, done=True, message="Done.")


def latest_per_range(archives: Sequence[Run]) -> list[Run]:
    """As the sensor sees them: a range that was run again counts as it ended then. Oldest range first."""
    found: dict[tuple[str, str], Run] = {}
    for run in archives:
        found.setdefault((run.tags.get(RANGE_START, ""), run.tags.get(RANGE_END, "")), run)
    return [found[key] for key in sorted(found)]


def _part(run: Run) -> str:
    return run.tags.get(TRIGGER_PART, run.run_id) if TRIGGER in run.tags else run.run_id


def _number(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 1


def _verb(state: str) -> str:
    return "failed" if state == "failed" else "was cancelled"
