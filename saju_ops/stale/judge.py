"""What becomes of one job."""

from __future__ import annotations

from datetime import datetime

from saju_ops.stale.audit import StaleJob, key_shown, key_to_json
from saju_ops.stale.connections import Undecodable
from saju_ops.stale.files import Files
from saju_ops.stale.moments import fate
from saju_ops.stale.plan import OddJob, StalePlan
from saju_ops.stale.tables import COMPLETED, OpenJob, same_case


def _id(job: OpenJob) -> str:
    return key_shown(key_to_json(job.key))


def _odd_key(job: OpenJob) -> OddJob | None:
    if job.key is None or isinstance(job.key, Undecodable):
        return OddJob(repr(job.key), job.status, "key", "analysis_jobs.job_id")
    return None


def _judge(job: OpenJob, files: Files, plan: StalePlan, cutoff: datetime, now: datetime) -> StaleJob | OddJob | None:
    """What becomes of an open job; None if it moved."""
    what, column = fate(job.created, (job.updated, *files.moments), cutoff, now)
    if what == "moving":
        return None
    if what != "stale":
        return OddJob(_id(job), job.status, what, column)
    word = COMPLETED if files.done else plan.empty_status
    last = max(m.at for m in (job.created, job.updated, *files.moments) if m.at is not None)
    return StaleJob(
        key_to_json(job.key), job.status, same_case(job.status, word) if word == word.lower() else word, job.folder,
        created=job.created.at.isoformat() if job.created.at else "", moved=last.isoformat(),
        files=files.total, done=files.done,
    )  # fmt: skip
