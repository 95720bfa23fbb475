"""A month that leaves with its partition, against the chunked purge of the same rows, DELETE alone and pt-archiver.

The rows are those of one month. Comparison and read-back are included in both of ours; a live writer's slowest
hundredth is measured while a month leaves, and in a quiet minute before.
"""

# ruff: noqa: S608 (the names in these statements are this package's own)

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pymysql
import sqlalchemy as sa

from benchmarks import rows
from benchmarks.report import Line

if TYPE_CHECKING:
    from benchmarks.__main__ import Bench

TABLE = "by_month"
# 2026-02-01 and 2026-03-01 00:00 in Seoul.
BOUNDS = (1769871600, 1772290800)
QUIET_SECONDS = 20.0
# A row of a month that stays.
NOW_AND_THEN = "INSERT INTO {table} (session_id, message_order, role, content) VALUES ('writer', 1, 'user', 'x')"


def make(bench: Bench) -> None:
    """The rows of `bench`, partitioned; one month and what comes later."""
    rows.copy_of(bench.cursor, TABLE)
    bench.cursor.execute(
        f"ALTER TABLE {TABLE} DROP PRIMARY KEY, ADD PRIMARY KEY (log_id, created_at)"
        " PARTITION BY RANGE (UNIX_TIMESTAMP(created_at)) ("
        f"PARTITION p202601 VALUES LESS THAN ({BOUNDS[0]}), PARTITION p202602 VALUES LESS THAN ({BOUNDS[1]}),"
        " PARTITION p_future VALUES LESS THAN MAXVALUE)"
    )
    bench.cursor.execute(f"ANALYZE TABLE {TABLE}")


class Writer(threading.Thread):
    """One INSERT after the other; how long each took, in seconds."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(daemon=True)
        url = sa.make_url(bench.url)
        self._connection: Any = pymysql.connect(
            host=url.host, port=url.port or 3306, user=url.username, password=str(url.password),
            database=bench.database, charset="utf8mb4", autocommit=True,
        )  # fmt: skip
        self.taken: list[float] = []
        self._ended = threading.Event()

    def run(self) -> None:
        with self._connection.cursor() as cursor:
            while not self._ended.is_set():
                began = time.monotonic()
                cursor.execute(NOW_AND_THEN.format(table=TABLE))
                self.taken.append(time.monotonic() - began)
                time.sleep(0.002)

    def __enter__(self) -> Writer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()
        self._connection.close()

    @property
    def p99(self) -> float:
        return sorted(self.taken)[int(len(self.taken) * 0.99)]


def measure(bench: Bench) -> None:
    writers: dict[str, list[float]] = {"quiet": [], "at work": []}
    for _ in range(bench.options.rounds):
        _once(bench, writers)
        table = rows.copy_of(bench.cursor, "to_purge")
        bench.pt_archiver("pt-archiver --bulk-delete, a month", table, "--bulk-delete")
    bench.cursor.execute(f"DROP TABLE IF EXISTS {TABLE}, to_purge")
    ours, chunked = bench.best("month by partition")["seconds"], bench.best("month in chunks")["seconds"]
    drop, delete = bench.best("EXCHANGE and DROP alone")["seconds"], bench.best("DELETE of the month alone")["seconds"]
    whole = bench.best("archive of the month")["seconds"] + ours
    peer = bench.best("pt-archiver --bulk-delete, a month")["seconds"]
    quiet, busy = min(writers["quiet"]), min(writers["at work"])
    bench.say(Line("month by partition, compared", f"{ours:.2f} s", f"in chunks: {chunked:.1f} s", chunked / ours, 5.0))
    bench.say(Line("  its drop alone", f"{drop:.3f} s", f"DELETE alone: {delete:.1f} s", delete / drop, 100.0))
    shown = f"{busy * 1e3:.1f} ms"
    bench.say(Line("  writers' p99", shown, f"quiet: {quiet * 1e3:.1f} ms", busy / quiet, 2.0, more=False))
    bench.say(Line("archive + proof + month", f"{whole:.1f} s", f"pt-archiver: {peer:.1f} s", peer / whole, 3.0))


def _once(bench: Bench, writers: dict[str, list[float]]) -> None:
    with bench.storage() as storage:
        make(bench)
        bench.child("archive of the month", "archive", table=TABLE, storage=storage)
        with Writer(bench) as writer:
            time.sleep(QUIET_SECONDS)
        writers["quiet"].append(writer.p99)
        with Writer(bench) as writer:
            bench.child("month by partition", "leave", table=TABLE, storage=storage, months=True)
        writers["at work"].append(writer.p99)
    with bench.storage() as storage:
        make(bench)
        bench.child("archive of the month", "archive", table=TABLE, storage=storage)
        bench.child("month in chunks", "leave", table=TABLE, storage=storage, months=False)
    make(bench)
    _drop_alone(bench)
    make(bench)
    _delete_alone(bench)


def _drop_alone(bench: Bench) -> None:
    bench.cursor.execute(f"CREATE TABLE beside LIKE {TABLE}")
    bench.cursor.execute("ALTER TABLE beside REMOVE PARTITIONING")
    began = time.monotonic()
    bench.cursor.execute(f"ALTER TABLE {TABLE} EXCHANGE PARTITION p202601 WITH TABLE beside")
    bench.cursor.execute("DROP TABLE beside")
    bench.cursor.execute(f"ALTER TABLE {TABLE} DROP PARTITION p202601")
    result = {"rows": bench.options.rows, "seconds": time.monotonic() - began}
    bench.measured.setdefault("EXCHANGE and DROP alone", []).append(result)


def _delete_alone(bench: Bench) -> None:
    began, size = time.monotonic(), 5_000
    for first in range(1, bench.options.rows + 1, size):
        bench.cursor.execute(f"DELETE FROM {TABLE} WHERE log_id BETWEEN {first} AND {first + size - 1}")
    result = {"rows": bench.options.rows, "seconds": time.monotonic() - began}
    bench.measured.setdefault("DELETE of the month alone", []).append(result)
