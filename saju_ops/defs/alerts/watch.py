"""What is wrong in Dagster just now: checks, freshness, schedules and sensors, runs that don't end. Looks only.

Each look is independent: if one fails, that is a problem of its own, and the others are settled all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from dagster import DagsterRunStatus as Status

from saju_ops.alerts.problems import Problem, Seen
from saju_ops.defs.alerts.events import raised
from saju_ops.reports.message import ago, local
from saju_ops.reports.runs import FailedCheck, check_lines, run_key
from saju_ops.reports.safe_errors import shown
from saju_ops.reports.titles import AGAIN, ASSETS, job

# A sensor looks every half minute, and one bad look mends itself at the next; a schedule's next may be a week away.
SENSOR_FAILURES, SCHEDULE_FAILURES = 3, 1
UNENDED = [Status.QUEUED, Status.NOT_STARTED, Status.STARTING, Status.STARTED, Status.CANCELING]
RUNS = 500


@dataclass(frozen=True)
class Place:
    """What is looked at, and from where. `known` says which message ids are in the outbox."""

    instance: dg.DagsterInstance
    repository: dg.RepositoryDefinition | None
    location: str | None
    now: datetime
    zone: Any
    max_runtime: timedelta
    link: Callable[[str], str]
    is_ours: Callable[[dg.DagsterRun], bool]
    known: Callable[[list[str]], set[str]]
    # When alerts began: of a check that failed before, only reminders and the all-clear are sent.
    since: datetime
    own_sensor: str = "alerts"
    # When this was first seen, by key: for what never happened at all.
    first_seen: Callable[[str], datetime] = lambda _: datetime.now(UTC)


def look(place: Place) -> Seen:
    seen = Seen()
    for kind, find in (("check", _checks), ("fresh", _freshness), ("tick", _instigators), ("hang", _hanging)):
        try:
            seen.problems += list(find(place, seen))
            seen.kinds.add(kind)
        except Exception as error:
            seen.problems.append(_blind(kind, error))
    seen.kinds.add("blind")
    return seen


def _blind(kind: str, error: Exception) -> Problem:
    what = {"check": "검사 결과", "fresh": "백업의 최신 상태", "tick": "스케줄과 센서", "hang": "실행 중인 작업"}[kind]
    return Problem(
        f"blind:{kind}", f"감시할 수 없음: {what}",
        (f"- 오류: {type(error).__name__}",
         "- 할 일: Dagster의 저장소와 로그를 확인하세요. 그동안 이런 문제는 알릴 수 없습니다."),
        "error",
    )  # fmt: skip


# --- checks ------------------------------------------------------------------------------------------------------


def _checks(place: Place, seen: Seen) -> Iterator[Problem]:
    if place.repository is None:
        return
    keys = list(place.repository.asset_graph.asset_check_keys)
    records = place.instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
    for key, record in records.items():
        name = f"check:{key.asset_key.to_user_string()}:{key.name}"
        if record.status.value == "PLANNED":
            seen.unknown.add(name)
            continue
        if record.status.value != "FAILED" or record.event is None:
            continue
        run = place.instance.get_run_by_id(record.run_id) if record.run_id else None
        if run is not None and not run.is_finished:
            seen.unknown.add(name)  # reported with its run
            continue
        yield _failed_check(place, name, key, record)


def _failed_check(place: Place, name: str, key: dg.AssetCheckKey, record: Any) -> Problem:
    evaluation = record.event.dagster_event.asset_check_evaluation_data
    numbers = {
        n: v.value
        for n, v in (evaluation.metadata or {}).items()
        if isinstance(v.value, int | float) and not isinstance(v.value, bool)
    }
    asset = key.asset_key.to_user_string()
    lines = check_lines([FailedCheck(key.name, asset, evaluation.severity.value, numbers)])[1:]
    endings = [run_key(record.run_id, ending) for ending in ("success", "failure", "canceled")]
    at = datetime.fromtimestamp(record.event.timestamp, UTC)
    return Problem(
        name, f"검사 실패: {key.name} ({ASSETS.get(asset, asset)})",
        (*lines, "- 할 일: Dagster의 자산 화면에서 검사 결과를 확인하세요."),
        "error" if evaluation.severity is dg.AssetCheckSeverity.ERROR else "warning",
        since=at, link=place.link(record.run_id) if record.run_id else "", run_id=record.run_id or "",
        reported_elsewhere=at < place.since or bool(place.known(endings)),
    )  # fmt: skip


# --- freshness ---------------------------------------------------------------------------------------------------


def _freshness(place: Place, seen: Seen) -> Iterator[Problem]:
    if place.repository is None:
        return
    graph = place.repository.asset_graph
    policies = {
        node.key: node.freshness_policy for node in graph.asset_nodes if getattr(node, "freshness_policy", None)
    }
    records = place.instance.get_freshness_state_records(list(policies))
    for key, policy in policies.items():
        record = records.get(key)
        state = record.freshness_state.value if record else "UNKNOWN"
        latest = place.instance.get_latest_materialization_event(key)
        last = datetime.fromtimestamp(latest.timestamp, UTC) if latest else None
        if last is None:
            begun = place.first_seen(f"fresh:{key.to_user_string()}")
            overdue = place.now - begun > _window(policy)
        else:
            overdue = state == "FAIL"
            if state == "UNKNOWN":
                seen.unknown.add(f"fresh:{key.to_user_string()}")
        if overdue:
            yield _stale(place, key, last)


def _window(policy: Any) -> timedelta:
    """How long an asset may be without its first materialization: its window, or two days for a daily deadline."""
    window = getattr(policy, "fail_window", None)
    if window is not None:
        return window.to_timedelta() if hasattr(window, "to_timedelta") else window
    return timedelta(days=2)


def _stale(place: Place, key: dg.AssetKey, last: datetime | None) -> Problem:
    name = key.to_user_string()
    when = f"{local(last, place.zone)} ({ago(place.now - last)} 전)" if last else "아직 한 번도 없음"
    return Problem(
        f"fresh:{name}", f"{_late(ASSETS.get(name, name))}: {ASSETS.get(name, name)}",
        (f"- 자산: `{name}`", f"- 마지막 성공: {when}",
         "- 할 일: 스케줄과 최근 실행을 확인하고, 자산을 직접 실행하세요 (운영 데이터를 바꾸지 않습니다)."),
        "error",
    )  # fmt: skip


def _late(title: str) -> str:
    return "보고서가 늦었습니다" if title.endswith("보고서") else "백업이 늦었습니다"


# --- schedules and sensors ---------------------------------------------------------------------------------------


def _instigators(place: Place, seen: Seen) -> Iterator[Problem]:
    if place.repository is None or place.instance.schedule_storage is None:
        return
    schedules = {s.name: s.default_status is dg.DefaultScheduleStatus.RUNNING for s in place.repository.schedule_defs}
    sensors = {s.name: s.default_status is dg.DefaultSensorStatus.RUNNING for s in place.repository.sensor_defs}
    for kind, names, word in (
        ("SCHEDULE", schedules, "스케줄"), ("SENSOR", sensors, "센서"),
    ):  # fmt: skip
        for state in place.instance.all_instigator_state():
            if (
                state.instigator_type.value != kind
                or state.name not in names
                or state.name == place.own_sensor
                or not _same_location(state, place.location)
            ):
                continue
            if state.status.value == "STOPPED":
                if names[state.name]:
                    yield _stopped(state.name, word)
                continue
            yield from _failing(place, seen, state, word)


def _same_location(state: Any, location: str | None) -> bool:
    return location is None or state.origin.repository_origin.code_location_origin.location_name == location


def _stopped(name: str, word: str) -> Problem:
    particle = "이" if word == "스케줄" else "가"
    return Problem(
        f"tick:stopped:{name}", f"{word}{particle} 꺼져 있습니다: {name}",
        (f"- 할 일: Dagster의 Automation 화면에서 `{name}`을(를) 켜세요. 꺼져 있는 동안 그 작업은 시작되지 않습니다.",),
        "error",
    )  # fmt: skip


def _failing(place: Place, seen: Seen, state: Any, word: str) -> Iterator[Problem]:
    enough = SCHEDULE_FAILURES if word == "스케줄" else SENSOR_FAILURES
    ticks = place.instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=enough + 1)
    ended = [t for t in ticks if t.status.value != "STARTED"][:enough]
    key = f"tick:failing:{state.name}"
    if not ended:
        seen.unknown.add(key)
        return
    failed = [t for t in ended if t.status.value == "FAILURE"]
    if len(failed) < enough:
        if failed and ended[0] in failed:
            seen.unknown.add(key)  # neither mended nor failing for good
        return
    error = failed[0].error
    particle = "이" if word == "스케줄" else "가"
    yield Problem(
        key, f"{word}{particle} 실패합니다: {state.name}",
        (f"- 오류: {shown(raised(error)) if error else '알 수 없음'}",
         f"- 마지막 시도: {local(datetime.fromtimestamp(failed[0].timestamp, UTC), place.zone)}",
         "- 할 일: Dagster의 Automation 화면에서 오류를 확인하세요. 고쳐질 때까지 그 작업은 시작되지 않습니다."),
        "error", since=datetime.fromtimestamp(failed[-1].timestamp, UTC),
    )  # fmt: skip


# --- runs that don't end -----------------------------------------------------------------------------------------


def _hanging(place: Place, seen: Seen) -> Iterator[Problem]:
    for record in place.instance.get_run_records(dg.RunsFilter(statuses=UNENDED), limit=RUNS):
        run = record.dagster_run
        if not place.is_ours(run):
            continue
        limit = _limit(run, place.max_runtime)
        begun = (
            datetime.fromtimestamp(record.start_time, UTC) if record.start_time
            else record.create_timestamp.replace(tzinfo=UTC)
        )  # fmt: skip
        if place.now - begun <= limit:
            continue
        waits = run.status in (Status.QUEUED, Status.NOT_STARTED, Status.STARTING)
        title = job(run.job_name, tuple(sorted(k.to_user_string() for k in run.asset_selection or ()))).title
        yield Problem(
            f"hang:{run.run_id}", f"{'시작되지 않습니다' if waits else '끝나지 않습니다'}: {title}",
            (f"- 작업: `{run.job_name}`", f"- 상태: {run.status.value}",
             f"- {'대기' if waits else '실행'} 시간: {ago(place.now - begun)} (한도 {ago(limit)})",
             f"- 할 일: {_advice(waits)}"),
            "error", since=begun + limit, link=place.link(run.run_id), run_id=run.run_id,
        )  # fmt: skip


def _advice(waits: bool) -> str:
    if waits:
        return "Dagster 데몬이 살아 있는지, 같은 pool을 쓰는 다른 실행이 붙잡고 있는지 확인하세요."
    return f"실행 화면에서 진행을 확인하세요. 멈췄으면 취소하세요. {AGAIN}"


def _limit(run: dg.DagsterRun, default: timedelta) -> timedelta:
    tag = run.tags.get("dagster/max_runtime", "")
    try:
        return min(default, timedelta(seconds=float(tag))) if tag else default
    except (ValueError, OverflowError):
        return default
