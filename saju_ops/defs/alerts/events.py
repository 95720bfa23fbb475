"""Reads what Dagster's event log holds of finished runs. It changes nothing, and knows nothing of channels.

Ended runs are found in two ways: by the event log's storage id after a cursor, and by time over the last minutes. The
first misses an event whose id was taken before a later event's and committed after it (PostgreSQL, MySQL), and one that
got the id of a deleted run's event (SQLite reuses ids). A run that is found twice is reported once, by its id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import dagster as dg
from dagster import DagsterEventType as Kind

from saju_ops.reports.runs import ArchivedDay, Ending, FailedCheck, FinishedRun
from saju_ops.reports.safe_errors import RaisedError
from saju_ops.storage import folders
from saju_ops.tags import RANGE_END, RANGE_START

ENDINGS: dict[Kind, Ending] = {
    Kind.RUN_SUCCESS: "success",
    Kind.RUN_FAILURE: "failure",
    Kind.RUN_CANCELED: "canceled",
}
PORTION = 200
LOOK_BACK = timedelta(minutes=15)
ARCHIVE = "conversation_log_archive"
WANTED = {
    Kind.STEP_OUTPUT, Kind.STEP_FAILURE, Kind.ASSET_MATERIALIZATION, Kind.ASSET_OBSERVATION,
    Kind.ASSET_CHECK_EVALUATION, Kind.RUN_FAILURE, Kind.RUN_CANCELED, Kind.RUN_CANCELING,
}  # fmt: skip
# Numbers that a reader of an alert has no use for.
DULL = ("dagster/", "seconds", "rows_per_second", "chunks")


@dataclass(frozen=True)
class Found:
    """A run's end, as the event log lists it."""

    run_id: str
    job: str
    kind: Kind
    storage_id: int
    at: datetime

    @property
    def ending(self) -> Ending:
        return ENDINGS[self.kind]


def newest_ids(instance: dg.DagsterInstance) -> dict[str, int]:
    """The newest id in the event log, per kind of ending: what is there already is the past."""
    found = {}
    for kind in ENDINGS:
        records = instance.fetch_run_status_changes(kind, limit=1).records
        found[kind.value] = records[0].storage_id if records else 0
    return found


def endings(
    instance: dg.DagsterInstance, cursor: Mapping[str, int], since: datetime, known_since: datetime, now: datetime
) -> Iterator[tuple[list[Found], dict[str, int]]]:
    """Ends of runs in portions, some of them seen before, each with the cursor as it is after the portion.

    `since`: when alerts began; nothing older is found. `known_since`: the outbox knows what was sent since then.
    """
    after = dict(cursor)
    for kind in ENDINGS:
        newest = instance.fetch_run_status_changes(kind, limit=1).records
        wiped = bool(newest) and newest[0].storage_id < after.get(kind.value, 0)
        # A wiped event log counts from the start again; the outbox knows by a run's id that it was reported.
        start = 0 if wiped else after.get(kind.value, 0)
        for portion in _pages(instance, kind, after_storage_id=start):
            after[kind.value] = portion[-1].storage_id
            yield [f for f in portion if not wiped or f.at > since], dict(after)
        recent = max(known_since, now - LOOK_BACK)
        for portion in _pages(instance, kind, after_timestamp=recent.timestamp()):
            yield [f for f in portion if f.at > known_since], dict(after)


def _pages(
    instance: dg.DagsterInstance, kind: Kind, after_storage_id: int = 0, after_timestamp: float | None = None
) -> Iterator[list[Found]]:
    while True:
        wanted: Any = dg.RunStatusChangeRecordsFilter(
            kind,  # type: ignore[arg-type]
            after_storage_id=after_storage_id,
            after_timestamp=after_timestamp,
        )
        records = instance.fetch_run_status_changes(wanted, limit=PORTION, ascending=True).records
        if records:
            yield [_found(kind, r) for r in records]
            after_storage_id = records[-1].storage_id
        if len(records) < PORTION:
            return


def _found(kind: Kind, record: dg.EventLogRecord) -> Found:
    entry = record.event_log_entry
    at = datetime.fromtimestamp(entry.timestamp, UTC)
    return Found(entry.run_id, entry.job_name or "", kind, record.storage_id, at)


# --- one run -----------------------------------------------------------------------------------------------------


@dataclass
class _Collected:
    reports: list[str] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)
    archived: dict[str, ArchivedDay] = field(default_factory=dict)
    failed_checks: dict[tuple[str, str], FailedCheck] = field(default_factory=dict)
    passed_checks: int = 0
    steps: list[str] = field(default_factory=list)
    error: RaisedError | None = None
    reason: str = ""
    stopped: str = ""
    picture: str = ""
    picture_title: str = ""


def finished_run(instance: dg.DagsterInstance, found: Found, run: dg.DagsterRun | None) -> FinishedRun:
    """Everything of a run that may be reported. If the run was deleted meanwhile, only its name and end are known."""
    collected = _Collected()
    if run is not None:
        for entry in instance.all_logs(found.run_id, of_type=WANTED):
            if entry.dagster_event is not None:
                _collect(collected, entry.dagster_event)
    tags = dict(run.tags) if run else {}
    return FinishedRun(
        run_id=found.run_id, job=run.job_name if run else found.job, ending=found.ending, at=found.at,
        seconds=_seconds(instance, found), assets=_assets(run), partitions=_partitions(tags),
        reports=tuple(collected.reports), numbers=collected.numbers,
        archived=tuple(collected.archived[d] for d in sorted(collected.archived)),
        failed_steps=tuple(dict.fromkeys(collected.steps)), error=collected.error,
        reason=collected.stopped or collected.reason, failed_checks=tuple(collected.failed_checks.values()),
        passed_checks=collected.passed_checks, attempts=_attempt(tags),
        retry_missing=retry_is_missing(run), picture=collected.picture,
        picture_title=collected.picture_title,
    )  # fmt: skip


def _collect(into: _Collected, event: dg.DagsterEvent) -> None:
    kind = event.event_type
    if kind is Kind.STEP_OUTPUT:
        _metadata(into, event.step_output_data.metadata or {})
    elif kind is Kind.ASSET_MATERIALIZATION:
        made = event.step_materialization_data.materialization
        if made.asset_key.to_user_string() == ARCHIVE and made.partition:
            _archived_day(into, made.partition, made.metadata)
        else:
            _metadata(into, made.metadata)
    elif kind is Kind.ASSET_OBSERVATION:
        _metadata(into, event.asset_observation_data.asset_observation.metadata)
    elif kind is Kind.ASSET_CHECK_EVALUATION:
        _check(into, event.asset_check_evaluation_data)
    elif kind is Kind.STEP_FAILURE:
        _step_failure(into, event)
    elif kind is Kind.RUN_FAILURE:
        failure = event.job_failure_data
        into.reason = _first_line(event.message)
        if into.error is None and failure.error is not None:
            into.error = raised(failure.error)
    elif kind in (Kind.RUN_CANCELED, Kind.RUN_CANCELING):
        into.reason = _cancel_reason(into.reason, _first_line(event.message), canceled=kind is Kind.RUN_CANCELED)


def _metadata(into: _Collected, metadata: Mapping[str, Any]) -> None:
    for name, value in metadata.items():
        plain = getattr(value, "value", value)
        if name == "report" and isinstance(plain, str):
            report = plain.replace("\n\n", "\n")
            if report not in into.reports:
                into.reports.append(report)
        elif name == "chart_png" and isinstance(plain, str):
            into.picture_title, _, data = plain.removeprefix("![").partition("](data:image/png;base64,")
            into.picture = data.removesuffix(")")
        elif name == "stopped" and isinstance(plain, str) and plain not in ("finished", "none", ""):
            into.stopped = plain
        elif isinstance(plain, int | float) and not name.startswith(DULL):
            into.numbers[name] = plain


def _archived_day(into: _Collected, day: str, metadata: Mapping[str, Any]) -> None:
    if "report" in metadata:
        _metadata(into, {"report": metadata["report"]})
    values = {name: getattr(value, "value", value) for name, value in metadata.items()}
    file = str(values.get("dagster/uri") or "")
    rows, written = values.get("dagster/row_count"), values.get("rows_written")
    into.archived[day] = ArchivedDay(day, file, int(rows or 0), int(written or 0), _storage_name(file))


def _storage_name(location: str) -> str:
    """`conversation_logs/2026/10/….csv`, without the address of its store."""
    head, found, rest = location.rpartition(folders.CONVERSATION_LOGS)
    return f"{found}{rest}" if found and (not head or head.endswith(("/", "\\"))) else ""


def _check(into: _Collected, evaluation: Any) -> None:
    key = (evaluation.asset_key.to_user_string(), evaluation.check_name)
    if evaluation.passed:
        into.passed_checks += 1
        into.failed_checks.pop(key, None)
        return
    numbers = {
        name: value.value
        for name, value in (evaluation.metadata or {}).items()
        if isinstance(value.value, int | float) and not isinstance(value.value, bool)
    }
    into.failed_checks[key] = FailedCheck(key[1], key[0], evaluation.severity.value, numbers)


def _step_failure(into: _Collected, event: dg.DagsterEvent) -> None:
    if event.step_key:
        into.steps.append(event.step_key)
    failure = event.step_failure_data.user_failure_data
    if failure is not None and "report" in failure.metadata:
        _metadata(into, {"report": failure.metadata["report"]})
    error = event.step_failure_data.error
    if into.error is None and error is not None:
        into.error = raised(error)


def raised(error: Any) -> RaisedError:
    return RaisedError(error.cls_name or "", error.message or "", raised(error.cause) if error.cause else None)


def _first_line(text: str | None) -> str:
    """The first line of an event's own message, which Dagster writes itself."""
    return (text or "").strip().splitlines()[0][:300] if (text or "").strip() else ""


def _cancel_reason(before: str, text: str, *, canceled: bool) -> str:
    """What Dagster says when a run is cancelled; its standard sentences say nothing."""
    if "Sending run termination request" in text or text.startswith("[CANCELING]"):
        return before or "실행 화면이나 API에서 취소 요청"
    if canceled and text.startswith('Execution of run for "') and text.endswith("canceled."):
        return before or "취소 요청"
    return text or before


def _seconds(instance: dg.DagsterInstance, found: Found) -> float | None:
    record = instance.get_run_record_by_id(found.run_id)
    if record is None or record.start_time is None:
        return None
    return max(0.0, found.at.timestamp() - record.start_time)


def _assets(run: dg.DagsterRun | None) -> tuple[str, ...]:
    if run is None or not run.asset_selection:
        return ()
    return tuple(sorted(key.to_user_string() for key in run.asset_selection))


def _partitions(tags: Mapping[str, str]) -> str:
    first, last = tags.get(RANGE_START), tags.get(RANGE_END)
    if first and last:
        return first if first == last else f"{first} ~ {last}"
    return tags.get("dagster/partition", "")


def _attempt(tags: Mapping[str, str]) -> int:
    try:
        return int(tags.get("dagster/retry_number", "0")) + 1
    except ValueError:
        return 1


# --- whose run, and is it the last word --------------------------------------------------------------------------


def is_ours(
    run: dg.DagsterRun | None, job_name: str, jobs: Sequence[str], assets: Sequence[str], location: str | None
) -> bool:
    """Whether a run belongs to this code location: by where it was launched from, or by its job's name."""
    origin = run.remote_job_origin if run else None
    if origin is not None and origin.repository_origin.code_location_origin.location_name == location:
        return True
    if job_name not in jobs:
        return False
    if job_name == "__ASSET_JOB" and run is not None and run.asset_selection:
        return any(key.to_user_string() in assets for key in run.asset_selection)
    return True


Verdict = Literal["final", "retried", "wait"]
# The failed run's process writes its tag just after its failure; Dagster's daemon launches the next attempt within
# seconds, or minutes where the queue is long.
TAG_GRACE = timedelta(seconds=30)
RETRY_GRACE = timedelta(hours=1)


def last_word(instance: dg.DagsterInstance, found: Found, run: dg.DagsterRun | None, now: datetime) -> Verdict:
    """Whether a failure is final: `retried` if Dagster launched another attempt, whose end will be reported; `wait` if
    it is about to."""
    if found.ending != "failure" or run is None or not instance.run_retries_enabled:
        return "final"
    if run.tags.get("dagster/auto_retry_run_id"):
        return "retried"
    age = now - found.at
    if run.tags.get("dagster/will_retry") is None:
        return "wait" if age < TAG_GRACE else "final"
    return "wait" if run.is_complete_and_waiting_to_retry and age < RETRY_GRACE else "final"


def retry_is_missing(run: dg.DagsterRun | None) -> bool:
    return run is not None and bool(run.is_complete_and_waiting_to_retry)
