"""One measurement in a process of its own: its time, its CPU time, its peak memory.

    python -m benchmarks.child archive '{"url": …}'

Prints one line of JSON. Time runs from after the imports, for the peers as for saju_ops; memory is the whole
process's peak (VmHWM), imports included.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

KST = ZoneInfo("Asia/Seoul")
# Long after every row.
NOW = datetime(2037, 1, 1, tzinfo=UTC)
CHUNK = 5_000
Task = Callable[[dict[str, Any]], Callable[[], int]]


def archive(job: dict[str, Any]) -> Callable[[], int]:
    """Archives and proves every due day; with `purge`, purges them after that."""
    import numpy  # noqa: F401
    import pyarrow.compute
    import pyarrow.csv  # noqa: F401

    from saju_ops.archive.day import archive_day
    from saju_ops.archive.due import due_days
    from saju_ops.archive.purge import purge
    from saju_ops.archive.purge_plan import PurgePlan
    from saju_ops.rows.days import Day, cutoff_day, day_of
    from saju_ops.rows.engines.open import open_log_store
    from saju_ops.storage.open import open_storage

    def run() -> int:
        storage, rows = open_storage(job["storage"]), 0
        with open_log_store(job["url"], job["table"], ZoneInfo("UTC")) as store:
            earliest = store.instants("asc")
            first = day_of(earliest, KST) if earliest else Day(date(2026, 1, 1), KST)
            for day in due_days(store, first, cutoff_day(NOW, 30, KST)):
                result = archive_day(store, storage, day, now=NOW, compression=job.get("compression", "none"))
                assert result.outcome == "archived", result.message
                rows += result.rows
            if job.get("purge"):
                plan = PurgePlan(30, dry_run=False, chunk_size=CHUNK)
                purged = purge(store, storage, plan, now=NOW, first_day=first)
                assert purged.deleted == rows, purged
        return rows

    return run


def leave(job: dict[str, Any]) -> Callable[[], int]:
    """Purges what is archived: months of a partitioned table as a whole, or in chunks."""
    import numpy  # noqa: F401
    import pyarrow.compute
    import pyarrow.csv  # noqa: F401

    from saju_ops.archive.purge import purge
    from saju_ops.archive.purge_plan import PurgePlan
    from saju_ops.rows.days import Day
    from saju_ops.rows.engines.open import open_log_store
    from saju_ops.schema.partitions.drop_month import whole_months
    from saju_ops.storage.open import open_storage

    def run() -> int:
        with open_log_store(job["url"], job["table"], ZoneInfo("UTC")) as store:
            result = purge(
                store, open_storage(job["storage"]), PurgePlan(30, dry_run=False, chunk_size=CHUNK), now=NOW,
                first_day=Day(date(2026, 1, 1), KST), months=whole_months(KST) if job["months"] else None,
            )  # fmt: skip
        assert result.deleted, result
        assert bool(result.months_dropped) == job["months"], result
        return result.deleted

    return run


def pandas(job: dict[str, Any]) -> Callable[[], int]:
    """What the archive replaces: the whole table in a frame, the frame in a CSV file that Excel opens."""
    import pandas as pd
    import sqlalchemy as sa

    def run() -> int:
        with sa.create_engine(job["url"]).connect() as connection:
            frame = pd.read_sql(sa.select(sa.text("*")).select_from(sa.table(job["table"])), connection)
        frame.to_csv(job["file"], index=False, encoding="utf-8-sig")
        return len(frame)

    return run


def restore(job: dict[str, Any]) -> Callable[[], int]:
    import numpy  # noqa: F401
    import pyarrow.compute
    import pyarrow.csv  # noqa: F401

    from saju_ops.archive.restore import restore as put_back
    from saju_ops.rows.days import parse_day
    from saju_ops.storage.open import open_storage

    def run() -> int:
        first, last = parse_day("2025-12-31", KST), parse_day("2026-12-31", KST)
        return put_back(
            open_storage(job["storage"]), job["url"], first, last, zone_of_database=ZoneInfo("UTC"),
            table=job["table"], source_table=job["source"], dry_run=False,
        ).written  # fmt: skip

    return run


def load_data(job: dict[str, Any]) -> Callable[[], int]:
    import pymysql
    import sqlalchemy as sa

    from benchmarks.rows import load

    def run() -> int:
        url = sa.make_url(job["url"])
        connection = pymysql.connect(
            host=url.host, port=url.port or 3306, user=url.username, password=str(url.password or ""),
            database=url.database, charset="utf8mb4", local_infile=True, ssl_disabled=True,
        )  # fmt: skip
        with connection, connection.cursor() as cursor:
            load(cursor, Path(job["file"]), job["table"])
            connection.commit()
            return cursor.rowcount

    return run


def dump(job: dict[str, Any]) -> Callable[[], int]:
    from benchmarks import dumps

    return dumps.take(job)


def stale_jobs(job: dict[str, Any]) -> Callable[[], int]:
    from benchmarks import stale

    return stale.ours(job)


def stale_jobs_peer(job: dict[str, Any]) -> Callable[[], int]:
    from benchmarks import stale

    return stale.peer(job)


def encrypt_births(job: dict[str, Any]) -> Callable[[], int]:
    from benchmarks import birth

    return birth.encrypt(job)


TASKS: dict[str, Task] = {
    "encrypt_births": encrypt_births, "stale_jobs": stale_jobs, "stale_jobs_peer": stale_jobs_peer,
    "archive": archive, "leave": leave, "pandas": pandas, "restore": restore, "load_data": load_data, "dump": dump,
}  # fmt: skip


def peak_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def main(name: str, job: str) -> None:
    run = TASKS[name](json.loads(job))
    at_start = peak_bytes()
    began, cpu = time.monotonic(), time.process_time()
    rows = run()
    seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    result = {"rows": rows, "seconds": seconds, "cpu": cpu}
    print(json.dumps({**result, "peak_bytes": peak_bytes(), "bytes_at_start": at_start}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
