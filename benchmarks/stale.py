"""Stale analysis jobs: check and apply against loading each stale job with its results and saving it (ORM).

One job in a hundred is stale, ten results a job, times of the last change in both tables. SQLite at full size,
since that is what production runs on; the server at a tenth, unless --full. The peer is measured on PEER_JOBS of the
stale jobs and its time for one job multiplied by their number; its line says so. Both count the statistics.
"""

# ruff: noqa: S608 (the names in these statements are this package's own)

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from benchmarks.report import Line

if TYPE_CHECKING:
    from benchmarks.__main__ import Bench

NOW = datetime(2026, 10, 14, 15, 30, tzinfo=UTC)
RESULTS, STALE_EVERY, PEER_JOBS = 10, 100, 1_000
MB = 1 << 20
TEXT = "고객님 안녕하세요 오늘 상담 내용을 말씀드리겠습니다 수익은 반드시 보장되지 않습니다"
STATUS = (
    f"CASE WHEN i % {STALE_EVERY} <> 0 THEN 'completed' WHEN i % {2 * STALE_EVERY} = 0 THEN 'pending'"
    " ELSE 'processing' END"
)
# 3 to 403 days before NOW.
DAYS = "3 + i % 400"


# --- the data -------------------------------------------------------------------------------------------------


def fill(engine: sa.Engine, jobs: int) -> None:
    sqlite = engine.dialect.name == "sqlite"
    at = (
        f"datetime('{NOW:%Y-%m-%d %H:%M:%S}', '-' || ({DAYS}) || ' days')"
        if sqlite
        else f"TIMESTAMP'{NOW:%Y-%m-%d %H:%M:%S}' - INTERVAL ({DAYS}) DAY"
    )
    key = "printf('job_%09d', i)" if sqlite else "CONCAT('job_', LPAD(i, 9, '0'))"
    file = "printf('call_%03d.wav', f)" if sqlite else "CONCAT('call_', LPAD(f, 3, '0'), '.wav')"
    # The numbers are in a table: a recursive query would be run again for each of the ten results.
    with engine.begin() as connection:
        run = _runner(connection)
        run("CREATE TABLE numbers (i integer PRIMARY KEY)")
        run("INSERT INTO numbers VALUES (1)")
        size = 1
        while size < jobs:
            run(f"INSERT INTO numbers SELECT i + {size} FROM numbers WHERE i + {size} <= {jobs}")
            size *= 2
        run(
            "CREATE TABLE analysis_jobs (job_id varchar(64) NOT NULL PRIMARY KEY, emp_id varchar(50) NOT NULL,"
            " folder_path varchar(500) NOT NULL, status varchar(20) NOT NULL, created_at datetime NOT NULL,"
            " updated_at datetime NOT NULL)"
        )
        run(
            "CREATE TABLE analysis_results (job_id varchar(64) NOT NULL, file_id varchar(64) NOT NULL,"
            " status varchar(20) NOT NULL, stt_text text, improper_detection_results json,"
            " updated_at datetime NOT NULL, PRIMARY KEY (job_id, file_id))"
        )
        run(f"INSERT INTO analysis_jobs SELECT {key}, 'E1', 'recordings/2026/E1', {STATUS}, {at}, {at} FROM numbers")
        done = f"i % {STALE_EVERY} <> 0 OR f < i % {RESULTS + 1}"
        files = " UNION ALL ".join(f"SELECT {n} AS f" for n in range(RESULTS))
        for start in range(0, jobs, 100_000):
            run(
                f"INSERT INTO analysis_results SELECT {key}, {file},"
                f" CASE WHEN {done} THEN 'completed' ELSE 'pending' END, '{TEXT}', '[]', {at}"
                f" FROM numbers, ({files}) AS files WHERE i > {start} AND i <= {start + 100_000}"
            )
        run("CREATE INDEX status ON analysis_jobs (status)")
        run("CREATE INDEX created_at ON analysis_jobs (created_at)")
        run("DROP TABLE numbers")
    with engine.begin() as connection:
        connection.exec_driver_sql("ANALYZE" if sqlite else "ANALYZE TABLE analysis_jobs, analysis_results")


def _runner(connection: sa.Connection) -> Callable[[str], Any]:
    """PyMySQL takes a percent sign for a placeholder."""
    sqlite = connection.dialect.name == "sqlite"
    return lambda statement: connection.exec_driver_sql(statement if sqlite else statement.replace("%", "%%"))


def reset(engine: sa.Engine) -> None:
    """Makes the stale jobs stale again."""
    kind = "integer" if engine.dialect.name == "sqlite" else "signed"
    number = f"CAST(substr(job_id, 5) AS {kind})"
    with engine.begin() as connection:
        _runner(connection)(
            f"UPDATE analysis_jobs SET status = CASE WHEN {number} % {2 * STALE_EVERY} = 0 THEN 'pending'"
            f" ELSE 'processing' END WHERE {number} % {STALE_EVERY} = 0"
        )


# --- tasks of benchmarks.child --------------------------------------------------------------------------------


def ours(job: dict[str, Any]) -> Callable[[], int]:
    from saju_ops.database.connect import parse_database_url
    from saju_ops.stale.plan import StalePlan
    from saju_ops.stale.reconcile import reconcile
    from saju_ops.storage.open import open_storage

    def run() -> int:
        mode = job["mode"]
        result = reconcile(
            parse_database_url(job["url"]), open_storage(job["storage"]), StalePlan(mode, 24, False, run_id="bench"),
            now=NOW, zone_of_database=ZoneInfo("UTC"), zone=ZoneInfo("Asia/Seoul"),
        )  # fmt: skip
        assert sum(1 for _ in result.jobs) == result.stale
        assert mode == "check" or result.settled == result.stale, result
        return result.stale

    return run


def peer(job: dict[str, Any]) -> Callable[[], int]:
    """What it replaces: the statistics by a query each, then job after job with its results, each saved."""
    from sqlalchemy.orm import Session, declarative_base

    base: Any = declarative_base()

    class Job(base):
        __tablename__ = "analysis_jobs"
        job_id = sa.Column(sa.String(64), primary_key=True)
        emp_id = sa.Column(sa.String(50))
        folder_path = sa.Column(sa.String(500))
        status = sa.Column(sa.String(20))
        created_at = sa.Column(sa.DateTime)
        updated_at = sa.Column(sa.DateTime)

    class Result(base):
        __tablename__ = "analysis_results"
        job_id = sa.Column(sa.String(64), primary_key=True)
        file_id = sa.Column(sa.String(64), primary_key=True)
        status = sa.Column(sa.String(20))
        stt_text = sa.Column(sa.Text)
        improper_detection_results = sa.Column(sa.Text)
        updated_at = sa.Column(sa.DateTime)

    def run() -> int:
        cutoff = (NOW - timedelta(hours=24)).replace(tzinfo=None)
        # A session as it is by default, which is how the service's own code does it.
        with Session(sa.create_engine(job["url"])) as session:
            for status in ("pending", "processing", "completed"):
                session.query(Job).filter(Job.status == status).count()
            session.query(Job).filter(Job.created_at < cutoff - timedelta(days=6)).count()
            stale = session.query(Job).filter(Job.status.in_(["pending", "processing"]), Job.updated_at < cutoff)
            for each in stale.limit(job["jobs"]).all():
                results = session.query(Result).filter(Result.job_id == each.job_id).all()
                done = sum(r.status == "completed" for r in results)
                if job["mode"] == "apply":
                    each.status = "completed" if done else "failed"
                    session.commit()
        return int(job["jobs"])

    return run


# --- measuring ------------------------------------------------------------------------------------------------


def measure(bench: Bench) -> None:
    full = bench.options.rows
    _engine(bench, "SQLite", f"sqlite:///{bench.folder / 'stale.db'}", full)
    with bench.server.database() as url:
        _engine(bench, bench.server.name, url, full if bench.options.full else full // 10)


def _engine(bench: Bench, name: str, url: str, jobs: int) -> None:
    print(f"  {name}: {jobs:,} jobs with {RESULTS * jobs:,} results …", flush=True)
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    fill(engine, jobs)
    stale = jobs // STALE_EVERY
    share = min(stale, PEER_JOBS)
    for _ in range(bench.options.rounds):
        for mode in ("check", "apply"):
            with tempfile.TemporaryDirectory(dir=bench.folder) as storage:
                _child(bench, f"{name} {mode}", "stale_jobs", url=url, mode=mode, storage=storage)
            reset(engine)
            for count in (0, share):
                _child(bench, f"{name} {mode}, peer {count}", "stale_jobs_peer", url=url, mode=mode, jobs=count)
            reset(engine)

    def theirs(mode: str) -> float:
        statistics = bench.best(f"{name} {mode}, peer 0")["seconds"]
        each = max(0.0, bench.best(f"{name} {mode}, peer {share}")["seconds"] - statistics) / share
        return float(statistics + each * stale)

    scaled = f"ORM, {share:,} of {stale:,} jobs, scaled"
    for mode in ("check", "apply"):
        own, saving = bench.best(f"{name} {mode}"), theirs("apply")
        taken = f"{own['seconds']:.2f} s, {own['peak_bytes'] / MB:,.0f} MB"
        other = f"load and save, {scaled}: {saving:.1f} s"
        # The aim is set for a million jobs; with fewer the start of a run (0.2 s) weighs more.
        wanted = 20.0 if jobs >= 1_000_000 else None
        bench.say(Line(f"stale jobs, {mode}, {name}, {jobs:,}", taken, other, saving / own["seconds"], wanted))
        if mode == "check":
            loading = theirs("check")
            other = f"load only, {scaled}: {loading:.1f} s"
            bench.say(Line("  the same", taken, other, loading / own["seconds"]))
        bench.say(Line(f"  memory beyond the start's, {mode}", f"{_growth(own):,.0f} MB"))


def _growth(result: dict[str, Any]) -> float:
    return float(result["peak_bytes"] - result["bytes_at_start"]) / MB


def _child(bench: Bench, name: str, task: str, **job: Any) -> None:
    command = [sys.executable, "-m", "benchmarks.child", task, json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr[-3000:]}")
    bench._keep(name, json.loads(done.stdout))
