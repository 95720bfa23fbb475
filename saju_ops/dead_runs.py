"""Ends runs whose process is gone when Dagster starts: after a machine was switched off or a container was killed.

Dagster's own monitoring finds such a run when `max_runtime_seconds` are over, 12 hours. Until then its days count as
being worked on, its pool is taken, and the trigger answers each call with it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from saju_ops.processes import is_alive

if TYPE_CHECKING:
    import dagster as dg

MESSAGE = (
    "The process of this run is gone: the machine or Dagster was stopped while it worked. What it had committed stays,"
    " nothing is half-done; launch it again, or leave it to its schedule."
)


def end_dead_runs(instance: dg.DagsterInstance, alive: Callable[[int, float], bool] = is_alive) -> list[str]:
    """Fails each started run of this machine whose process no longer runs; alerts report it like any failure.

    Returns their ids. It looks at runs that Dagster's default launcher started, as processes of this machine; a run
    whose process another launcher started, or never said its number, is left to Dagster's monitoring.
    """
    import dagster as dg

    ended: list[str] = []
    if not isinstance(instance.run_launcher, dg.DefaultRunLauncher):
        return ended
    for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING])):
        known = _process(instance, run.run_id)
        if known is not None and not alive(*known):
            report = instance.report_run_canceled if _is_being_cancelled(run) else instance.report_run_failed
            report(run, MESSAGE)
            ended.append(run.run_id)
    return ended


def _is_being_cancelled(run: dg.DagsterRun) -> bool:
    import dagster as dg

    return run.status is dg.DagsterRunStatus.CANCELING


def _process(instance: dg.DagsterInstance, run_id: str) -> tuple[int, float] | None:
    """The number of the run's process, and when it said so, in seconds since 1970."""
    import dagster as dg

    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        event = entry.dagster_event
        if event is None or event.step_key is not None:
            continue
        pid = event.engine_event_data.metadata.get("pid")
        if pid is not None and str(pid.value).isdigit():
            return int(str(pid.value)), entry.timestamp
    return None


def main() -> None:
    """`python -m saju_ops.dead_runs`, on the instance of DAGSTER_HOME, before daemon and webserver start."""
    import dagster as dg

    with dg.DagsterInstance.get() as instance:
        for run_id in end_dead_runs(instance):
            print(f"Run {run_id} was ended: its process is gone. Its days are due again.", file=sys.stderr)


if __name__ == "__main__":
    main()
