"""What the jobs that change live tables have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC
from typing import Any

import dagster as dg

from saju_ops.errors import OperatorError


@contextmanager
def refused_once() -> Iterator[None]:
    """An error that is a sentence for the operator fails the run at once: another try would say the same."""
    try:
        yield
    except OperatorError as error:
        raise dg.Failure(str(error), allow_retries=False) from error


def observe(context: dg.OpExecutionContext, table: dg.AssetKey, metadata: Mapping[str, Any]) -> None:
    """The run's numbers, on the table itself too, so that they plot over the weeks."""
    context.add_output_metadata(metadata)
    context.log_event(dg.AssetObservation(table, metadata=metadata))


def one_run_a_tick(context: dg.ScheduleEvaluationContext, name: str, job: str, config: dg.Config) -> dg.RunRequest:
    """A run of the job's only step, which bears the job's name."""
    tick = context.scheduled_execution_time.astimezone(UTC)
    return dg.RunRequest(run_key=f"{name}-{tick:%Y-%m-%dT%H:%MZ}", run_config=dg.RunConfig(ops={job: config}))
