"""A database of paid reports, its files in an S3 that runs here, and the purge on them, for tests as sentences.

What is left is read with the tests' own statements and client, never with the project's code.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.pool import NullPool

from saju_ops.expired.job_files import JobFiles
from saju_ops.expired.job_tables import JobPurgeResult, JobTables, job_limits, open_jobs
from saju_ops.expired.jobs import purge_expired_jobs
from saju_ops.schema import tables as schema
from saju_ops.storage.open import open_storage

SEOUL = ZoneInfo("Asia/Seoul")
UTC_ZONE = ZoneInfo("UTC")
NOW = datetime(2026, 10, 1, 0, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
CHILDREN = (
    "payments", "job_files", "sms_logs", "phone_verification_attempts", "payment_failures", "reports",
    "report_knowledge",
)  # fmt: skip
TABLES = JobTables("jobs", CHILDREN, ("payments", "payment_failures"), (("job_files", "s3_key"),))
NO_FILES = JobTables("jobs", CHILDREN, ("payments", "payment_failures"))
NOTHING_KEPT = JobTables("jobs", CHILDREN)
# A job has so many rows besides its own: 1 payment, 4 files, 2 sms, 2 attempts, 1 failure, 1 report, 3 knowledge.
HANGING = 14
SIZE = 10


def job_id(number: int) -> str:
    return str(UUID(int=number + (4 << 76) + (8 << 60)))


def file_key(number: int, file: int) -> str:
    return f"jobs/{job_id(number)}/{file}.pdf"


def paid_reports(cascades: str = "orm") -> sa.MetaData:
    """The schema with its cascades in the ORM alone, in the database, or some here and some there."""
    metadata = sa.MetaData(naming_convention=dict(schema.paid_reports.naming_convention))
    for number, table in enumerate(schema.paid_reports.sorted_tables):
        copy = table.to_metadata(metadata)
        for constraint in copy.foreign_key_constraints:
            if cascades == "database" or (cascades == "mixed" and number % 2):
                constraint.ondelete = "CASCADE"
    return metadata


class JobScene:
    def __init__(self, url: str, folder: Path, *, cascades: str = "orm", zone: ZoneInfo = UTC_ZONE) -> None:
        self.url, self.folder, self.zone = sa.make_url(url), folder, zone
        self.storage = open_storage(str(folder))
        self.engine = sa.create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        event.listen(self.engine, "connect", self._pin, insert=True)
        self.metadata = paid_reports(cascades)

    def _pin(self, connection: Any, _record: Any) -> None:
        if self.engine.dialect.name in ("mysql", "mariadb"):
            with connection.cursor() as cursor:
                cursor.execute("SET SESSION time_zone = '+00:00'")
        elif self.engine.dialect.name == "sqlite":
            connection.execute("PRAGMA foreign_keys = ON")

    def create(self, *statements: str) -> JobScene:
        with self.engine.connect() as connection:
            self.metadata.create_all(connection)
        return self.run_all(*statements)

    def run_all(self, *statements: str) -> JobScene:
        for statement in statements:
            self.run(statement)
        return self

    def run(self, statement: str, **values: Any) -> list[Any]:
        with self.engine.connect() as connection:
            result = connection.execute(sa.text(statement), values)
            return list(result) if result.returns_rows else []

    def table(self, name: str) -> sa.Table:
        return self.metadata.tables[name]

    def insert(self, table: str, *rows: dict[str, Any]) -> None:
        with self.engine.connect() as connection:
            connection.execute(sa.insert(self.table(table)), list(rows))

    # --- jobs ------------------------------------------------------------------------------------------------

    def add(self, numbers: Iterable[int], expires: datetime = NOW - HOUR) -> list[str]:
        """Jobs with all that hangs on one; gives their ids."""
        numbers = list(numbers)
        at = expires.astimezone(self.zone).replace(tzinfo=None)
        made = at - timedelta(hours=24)
        rows: dict[str, list[dict[str, Any]]] = {name: [] for name in ("jobs", *CHILDREN)}
        for n in numbers:
            one = {"job_id": job_id(n), "created_at": made}
            who = {"phone": f"010-0000-{n % 10_000:04}"}
            job = who | {"id": job_id(n), "product": "신년 운세", "created_at": made, "expires_at": at}
            rows["jobs"].append(job)
            paid = {"order_id": f"order_{n}", "amount": 29_000, "status": "paid", "method": "카드"}
            rows["payments"].append(one | paid | {"id": n})
            failure = {"error_code": "PAY_CANCELED", "error_message": '취소, "창" 닫음'}
            rows["payment_failures"].append(one | failure | {"id": n})
            rows["reports"].append(one | {"id": n, "title": "제목", "content": "내용" * 50})
            for i in range(4):
                file = {"kind": "f", "s3_key": file_key(n, i), "size_bytes": SIZE}
                rows["job_files"].append(one | file | {"id": 4 * n + i})
            for i in range(2):
                rows["sms_logs"].append(one | who | {"id": 2 * n + i, "message": "문자", "status": "sent"})
                tried = one | who | {"id": 2 * n + i, "code_hash": "0" * 64}
                rows["phone_verification_attempts"].append(tried)
            for i in range(3):
                known = {"id": 3 * n + i, "report_id": n, "knowledge_id": f"k{i}", "created_at": made}
                rows["report_knowledge"].append(known)
        with self.engine.begin() as connection:
            for name in ("jobs", *CHILDREN):
                connection.execute(sa.insert(self.table(name)), rows[name])
        return [job_id(n) for n in numbers]

    def counts(self) -> dict[str, int]:
        with self.engine.connect() as connection:
            return {
                name: int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())
                for name, table in self.metadata.tables.items()
            }

    def ids(self, table: str = "jobs", column: str = "id") -> set[Any]:
        with self.engine.connect() as connection:
            return set(connection.execute(sa.select(self.table(table).c[column])).scalars())

    def whole(self, number: int) -> bool | None:
        """Whether a job is there with every row; None where it is gone with every row; False in between."""
        return self.wholeness([number])[number]

    def wholeness(self, numbers: Iterable[int]) -> dict[int, bool | None]:
        shares: dict[int, set[float]] = {number: set() for number in numbers}
        with self.engine.connect() as connection:
            for name, expected in zip(("jobs", *CHILDREN), (1, 1, 4, 2, 2, 1, 1, 3), strict=True):
                column = {"jobs": "id", "report_knowledge": "report_id"}.get(name, "job_id")
                owner = self.table(name).c[column]
                found = dict(map(tuple, connection.execute(sa.select(owner, sa.func.count()).group_by(owner))))
                for number in shares:
                    key = number if column == "report_id" else job_id(number)
                    shares[number].add(found.get(key, 0) / expected)
        return {n: True if found == {1} else None if found == {0} else False for n, found in shares.items()}

    # --- the purge -------------------------------------------------------------------------------------------

    def purge(
        self, *, now: datetime = NOW, tables: JobTables = NO_FILES, files: JobFiles | None = None,
        storage: Any = None, passed: dict[str, Any] | None = None, wait: float = 5.0, **options: Any,
    ) -> JobPurgeResult:  # fmt: skip
        limits = job_limits(**{"dry_run": False, **options})
        with open_jobs(self.url, tables.root, self.zone) as store:
            return purge_expired_jobs(
                store, storage or self.storage, tables, limits, now=now, zone=SEOUL, files=files, wait=wait,
                **(passed or {}),
            )  # fmt: skip

    # --- what the archive holds --------------------------------------------------------------------------------

    def archived(self, table: str) -> list[dict[str, str]]:
        """Every row of every archive of the table that has a manifest, read by the csv module."""
        rows: list[dict[str, str]] = []
        for manifest in sorted(self.folder.glob(f"purged_jobs/*/*/{table}_*.manifest.json")):
            file = manifest.with_name(manifest.name.replace(".manifest.json", ".csv"))
            text = file.read_bytes().decode("utf-8-sig")
            rows += csv.DictReader(io.StringIO(text, newline=""))
        return rows

    def archived_ids(self, table: str) -> list[int]:
        return sorted(int(row["id"]) for row in self.archived(table))
