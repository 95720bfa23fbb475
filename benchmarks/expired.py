"""Expired jobs: the purge against one ORM delete per job, on the same rows and the same S3.

10,000 jobs with 15 rows and 4 files each, by default. The ORM's side is what the old code did: the cascades in
its relationships, one `session.delete(job)` and commit a job, its files deleted by one request a job. The S3 is
moto in a process of its own, and both sides wait for it.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.orm import Session, registry, relationship

from benchmarks.report import Line
from saju_ops.expired.job_files import FilePlace, JobFiles, connect_s3
from saju_ops.expired.job_tables import JobTables, job_limits, open_jobs
from saju_ops.expired.jobs import purge_expired_jobs
from saju_ops.schema import tables as schema
from saju_ops.storage.open import open_storage
from saju_ops.storage.s3.address import S3Options

if TYPE_CHECKING:
    from benchmarks.__main__ import Bench

NOW = datetime(2026, 10, 1, tzinfo=UTC)
FILES = 4
# Rows of each table that hang on a job: fifteen.
ROWS = {
    "payments": 1, "payment_failures": 1, "reports": 1, "job_files": FILES, "sms_logs": 2,
    "phone_verification_attempts": 2, "report_knowledge": 4,
}  # fmt: skip
TABLES = JobTables("jobs", tuple(ROWS), ("payments", "payment_failures"), (("job_files", "s3_key"),))
BUCKET = "jobs"


def job_id(number: int) -> str:
    return str(UUID(int=number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % (1 << 128)))


def file_key(number: int, file: int) -> str:
    return f"jobs/{job_id(number)}/{file}.pdf"


def fill(url: str, count: int) -> None:
    """The paid-report tables with so many expired jobs."""
    engine = sa.create_engine(url)
    schema.paid_reports.drop_all(engine)
    schema.paid_reports.create_all(engine)
    at = (NOW - timedelta(hours=1)).replace(tzinfo=None)
    with engine.begin() as connection:
        for start in range(0, count, 1_000):
            numbers = range(start + 1, min(start + 1_000, count) + 1)
            jobs = [{"id": job_id(n), "phone": "010", "product": "p", "expires_at": at} for n in numbers]
            connection.execute(sa.insert(schema.jobs), jobs)
            for name, each in ROWS.items():
                rows = [_row(name, n, i, each) for n in numbers for i in range(each)]
                connection.execute(sa.insert(schema.paid_reports.tables[name]), rows)
    engine.dispose()


def _row(table: str, number: int, i: int, each: int) -> dict[str, Any]:
    row: dict[str, Any] = {"id": (number - 1) * each + i + 1, "job_id": job_id(number)}
    more: dict[str, dict[str, Any]] = {
        "payments": {"order_id": f"order_{number}", "amount": 29_000, "status": "paid"},
        "payment_failures": {"error_code": "PAY_CANCELED", "error_message": "취소"},
        "reports": {"title": "제목", "content": "내용" * 500},
        "job_files": {"kind": "f", "s3_key": file_key(number, i), "size_bytes": 1},
        "sms_logs": {"phone": "010", "message": "문자", "status": "sent"},
        "phone_verification_attempts": {"phone": "010", "code_hash": "0" * 64},
    }
    if table == "report_knowledge":
        return {"id": row["id"], "report_id": number, "knowledge_id": f"k{i}"}
    return row | more[table]


def purge(url: str, folder: Path, s3: str, count: int) -> float:
    files = JobFiles(FilePlace(BUCKET, "jobs", options=options(s3)))
    began = time.monotonic()
    with open_jobs(sa.make_url(url), "jobs", ZoneInfo("UTC")) as store:
        result = purge_expired_jobs(
            store, open_storage(str(folder)), TABLES, job_limits(dry_run=False), now=NOW, zone=ZoneInfo("Asia/Seoul"),
            files=files,
        )  # fmt: skip
    seconds = time.monotonic() - began
    assert (result.deleted, result.files, result.rows_archived.total()) == (count, FILES * count, 2 * count), result
    return seconds


def orm(url: str, s3: str, count: int) -> float:
    """Deletes `count` jobs the old way."""
    job_class = _mapped()
    client, engine = connect_s3(FilePlace(BUCKET, options=options(s3))), sa.create_engine(url)
    began = time.monotonic()
    with Session(engine) as session:
        past = sa.select(job_class).where(schema.jobs.c.expires_at < NOW.replace(tzinfo=None)).limit(count)
        for job in session.scalars(past).all():
            keys = [{"Key": file.s3_key} for file in job.job_files]
            client.delete_objects(Bucket=BUCKET, Delete={"Objects": keys})
            session.delete(job)
            session.commit()
    seconds = time.monotonic() - began
    engine.dispose()
    return seconds


def _mapped() -> Any:
    mapper = registry()
    classes = {name: type(name, (), {}) for name in ("jobs", *ROWS)}
    below = {"jobs": [t for t in ROWS if t != "report_knowledge"], "reports": ["report_knowledge"]}
    for name, cls in classes.items():
        related = {t: relationship(classes[t], cascade="all, delete-orphan") for t in below.get(name, ())}
        mapper.map_imperatively(cls, schema.paid_reports.tables[name], properties=related)
    return classes["jobs"]


def options(s3: str) -> S3Options:
    return S3Options(endpoint_url=s3, region="us-east-1", access_key_id="x", secret_access_key="y")


def _serve(port: Any) -> None:
    import logging

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    port.put(server.get_host_and_port()[1])
    time.sleep(86_400)


@contextmanager
def s3_server() -> Iterator[str]:
    context = multiprocessing.get_context("spawn")
    port = context.Queue()
    process = context.Process(target=_serve, args=(port,), daemon=True)
    process.start()
    try:
        url = f"http://127.0.0.1:{port.get(timeout=60)}"
        connect_s3(FilePlace(BUCKET, options=options(url))).create_bucket(Bucket=BUCKET)
        yield url
    finally:
        process.kill()
        process.join()


def put_files(s3: str, count: int) -> None:
    """Some real files; S3 answers for a missing one alike."""
    client = connect_s3(FilePlace(BUCKET, options=options(s3)))
    for number in range(1, min(count, 250) + 1):
        for file in range(FILES):
            client.put_object(Bucket=BUCKET, Key=file_key(number, file), Body=b"x")


def measure(bench: Bench) -> None:
    count = 10_000 if bench.options.rows >= 1_000_000 else max(100, bench.options.rows // 100)
    with bench.server.database() as url, bench.storage() as folder:
        result = compare(url, Path(folder), count, max(100, count // 10))
    bench.measured["expired jobs"] = result
    what = f"{count:,} expired jobs, 15 rows and 4 files each"
    peer = f"an ORM delete a job, {result['orm_jobs']:,} of them, scaled: {result['orm_seconds']:.1f} s"
    bench.say(Line(what, f"{result['seconds']:.1f} s", peer, result["times"], 5.0))


def compare(url: str, folder: Path, count: int, orm_count: int) -> dict[str, float]:
    """Seconds of the purge of `count` jobs, and what the ORM needs for as many (measured on `orm_count`)."""
    with s3_server() as s3:
        fill(url, count)
        put_files(s3, count)
        ours = purge(url, folder, s3, count)
        fill(url, count)
        put_files(s3, count)
        theirs = orm(url, s3, orm_count) * count / orm_count
    return {"seconds": ours, "orm_seconds": theirs, "jobs": count, "orm_jobs": orm_count, "times": theirs / ours}
