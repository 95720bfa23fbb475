"""Settles jobs in short transactions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from saju_ops.errors import Busy, OperatorError
from saju_ops.run_control import RunControl
from saju_ops.stale import plan
from saju_ops.stale import status_check as stale_holds
from saju_ops.stale.audit import Audit, Batch, StaleJob, key_from_json, key_to_json
from saju_ops.stale.connections import data_version
from saju_ops.stale.files import Files
from saju_ops.stale.judge import _judge
from saju_ops.stale.plan import (
    FINISHED,
    SCAN_TRIES,
    StalePlan,
    StaleResult,
    _batch_jobs,
    _batches,
)
from saju_ops.stale.tables import OpenJob, Tables
from saju_ops.words import counted, were


@dataclass
class Settling:
    tables: Tables
    audit: Audit
    plan: StalePlan
    result: StaleResult
    now: datetime
    # SQLite's data_version before the jobs were looked at.
    version: int | None
    control: RunControl

    def run(self) -> None:
        for samples in self.result.samples.values():
            stale_holds.tried(self.tables, samples)
        size = _batch_jobs(self.tables)
        per_part = 1 if size > plan.BATCH_JOBS else plan.PART_BATCHES
        for batches in _batches(_batches(self.result.jobs, size), per_part):
            if self.result.stopped == FINISHED and (why := self.control.should_stop()):
                self.result.stopped = why
            if self.result.stopped != FINISHED:
                return
            self._part(batches)

    def _part(self, batches: list[list[StaleJob]]) -> None:
        """Intent, transactions, outcome. An error in the third transaction still leaves the outcome of the first two;
        if the run is ever put back, the rows themselves show whether the third was done."""
        self.audit.intent(batches)
        done: list[Batch] = []
        failed: BaseException | None = None
        try:
            for number, batch in enumerate(batches):
                if why := self.control.should_stop():
                    self.result.stopped = why
                    break
                done.append(Batch(number, [key_to_json(k) for k in self._batch(batch)]))
                self.control.progress(self.result)
            done += [Batch(number, []) for number in range(len(done), len(batches))]
        except BaseException as error:
            failed = error
            raise
        finally:
            # A connection lost during a commit leaves that transaction unknown: it must not be recorded as "nothing".
            self._record_outcome(done, failed)

    def _record_outcome(self, done: list[Batch], failed: BaseException | None) -> None:
        try:
            self.audit.outcome(done)
        except OperatorError as error:
            if failed is None:
                raise OperatorError(
                    f"{counted(self.result.settled, 'job')} {were(self.result.settled)} settled, but what was changed"
                    " could not be written down:"
                    f" {error} What was meant is in {self.audit.files[-1]}; undo works from that."
                ) from error

    def _batch(self, jobs: list[StaleJob]) -> list[Any]:
        """One transaction: locks, looks again, changes the jobs that are unchanged since. Returns their keys."""
        wanted = {key_from_json(job.key): job for job in jobs}
        try:
            changed = self._still_as_seen(wanted)
            for (seen, becomes), keys in _grouped(changed, wanted).items():
                if self.tables.set_status(keys, seen, becomes) != len(keys):
                    raise OperatorError(
                        f"An update of {counted(len(keys), 'job')} changed another number of rows. It was rolled"
                        " back; a trigger or rule on analysis_jobs may be the cause."
                    )
            self.tables.commit()
        except BaseException:
            self.tables.end()
            raise
        self._count([wanted[key] for key in changed], len(jobs))
        return changed

    def _still_as_seen(self, wanted: dict[Any, StaleJob]) -> list[Any]:
        """Begins the transaction and locks; the keys of the jobs that are as they were seen."""
        tables = self.tables
        tables.end()
        tables.begin()
        if self.version is not None and data_version(tables.connection) == self.version:
            # Nobody has written to this SQLite database since, and nobody can before the commit.
            return list(wanted)
        if tables.scans_results and tables.scan_takes_long():
            now_jobs, files = self._look_before_the_lock(list(wanted))
        else:
            now_jobs = tables.jobs_now(list(wanted))
            files = tables.files_of(list(now_jobs)) if now_jobs else {}
        return [k for k, job in wanted.items() if self._unchanged(job, now_jobs.get(k), files.get(k, Files()))]

    def _look_before_the_lock(self, keys: list[Any]) -> tuple[dict[Any, OpenJob], dict[Any, Files]]:
        """Without an index the look takes seconds, for which no writer may wait: so look first, and begin only if
        nobody wrote meanwhile."""
        tables = self.tables
        for _ in range(SCAN_TRIES):
            tables.end()
            version = data_version(tables.connection)
            files = tables.files_of(keys)
            tables.end()
            tables.begin()
            if data_version(tables.connection) == version:
                return tables.jobs_now(keys), files
        raise Busy(
            "analysis_results has no index on job_id and is written to all the time, so it can't be looked through"
            " between two writes. CREATE INDEX analysis_results_job_id ON analysis_results (job_id), and launch again."
        )

    def _unchanged(self, seen: StaleJob, job: OpenJob | None, files: Files) -> bool:
        if job is None or job.status != seen.status:
            return False
        again = _judge(job, files, self.plan, self.now - timedelta(hours=self.plan.hours), self.now)
        return isinstance(again, StaleJob) and (again.becomes, again.files, again.done) == (
            seen.becomes, seen.files, seen.done,
        )  # fmt: skip

    def _count(self, changed: list[StaleJob], of: int) -> None:
        self.result.transactions += 1
        self.result.left_moved += of - len(changed)
        counts = Counter(("partly" if j.partly_done else "whole") if j.done else "empty" for j in changed)
        self.result.settled_completed += counts["whole"] + counts["partly"]
        self.result.settled_partly += counts["partly"]
        self.result.settled_empty += counts["empty"]


def _grouped(keys: Sequence[Any], jobs: dict[Any, StaleJob]) -> dict[tuple[str, str], list[Any]]:
    groups: dict[tuple[str, str], list[Any]] = {}
    for key in keys:
        groups.setdefault((jobs[key].status, jobs[key].becomes), []).append(key)
    return groups
