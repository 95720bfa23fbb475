"""The folders under BACKUP_URI: what saju_ops stores, and where."""

from __future__ import annotations

CONVERSATION_LOGS = "conversation_logs/"
DUMPS = "database/"
MASKED_DUMPS = "masked_database/"
CHROMA = "chroma/"
# Rows that were archived before their job was deleted, and sessions whose keys are still to leave Redis.
PURGED_JOBS = "purged_jobs/"
REDIS_PENDING = "redis_pending/"
# What runs of `reconcile_stale_jobs` changed.
RECONCILED_JOBS = "reconciled_jobs/"
SEALS = "seals/"
REPORTS = "reports/"
# No file of a job is in one of these.
ALL = (CONVERSATION_LOGS, DUMPS, MASKED_DUMPS, CHROMA, PURGED_JOBS, RECONCILED_JOBS, REDIS_PENDING, SEALS, REPORTS)
