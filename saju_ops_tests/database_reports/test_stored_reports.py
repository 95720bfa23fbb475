"""Reports in the store: whole or not there, never written again, believed only by key, deleted when they are old."""

from __future__ import annotations

import subprocess
from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import pytest

from saju_ops.database_reports.columns import csv_of, frame_from_csv, frame_of
from saju_ops.errors import OperatorError, ProofFailed
from saju_ops.storage.base import Storage
from saju_ops.storage.local import LocalStorage
from saju_ops.storage.mirrored.store import MirroredStorage
from saju_ops.storage.open import S3Options, open_storage
from saju_ops.storage.seal import Seals, Unsealed
from saju_ops.storage.stored_reports import read_report, report_of, store_report, stored_reports
from saju_ops.upkeep.policy import Policy
from saju_ops.upkeep.prune import NEWEST_REPORTS, REPORT_DAYS, prune
from saju_ops.upkeep.verify import verify
from saju_ops_tests.database_reports.scene import A_WEEK_AGO, NOW, SEOUL, Reported, row, run
from saju_ops_tests.fakes.s3 import S3Server

DAY = date(2026, 10, 1)
PASSWORD = "correct horse battery staple"
KEY = "0123456789abcdef0123456789abcdef"


def test_the_file_is_named_by_report_and_day_and_opens_in_excel(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    rows = [{"database": "상담", "table": 'a "b", c', "rows": None, "bytes": 5, "growth_bytes_per_day": 1.5}]
    frame = frame_of("table_sizes", rows)
    stored = store_report(storage, "table_sizes", DAY, csv_of(frame))
    data = (tmp_path / "reports" / "table_sizes_20261001.csv").read_bytes()
    assert data.startswith(b"\xef\xbb\xbfdatabase,table,rows,")
    assert read_report(storage, stored) == data
    pd.testing.assert_frame_equal(frame_from_csv("table_sizes", data), frame)


def test_a_second_report_of_a_day_leaves_the_first(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    names = [store_report(storage, "index_usage", DAY, text).file for text in (b"1", b"2", b"3")]
    assert names == [f"reports/index_usage_20261001{end}.csv" for end in ("", "_2", "_3")]
    assert [(tmp_path / name).read_bytes() for name in names] == [b"1", b"2", b"3"]


def test_with_a_password_it_is_an_encrypted_zip_file_that_other_tools_open(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path, PASSWORD)
    stored = store_report(storage, "slow_queries", DAY, b"query\nSELECT\n")
    assert stored.file == "reports/slow_queries_20261001.csv.zip"
    assert b"SELECT" not in (tmp_path / stored.file).read_bytes()
    assert read_report(storage, stored) == b"query\nSELECT\n"
    opened = subprocess.run(
        ["7z", "x", "-so", f"-p{PASSWORD}", str(tmp_path / stored.file)], capture_output=True, check=True
    )
    assert opened.stdout == b"query\nSELECT\n"
    with pytest.raises(OperatorError):
        read_report(LocalStorage(tmp_path, "another password 123"), stored)


def test_with_a_key_a_report_that_nobody_sealed_is_not_believed(tmp_path: Path) -> None:
    plain, keyed = LocalStorage(tmp_path), LocalStorage(tmp_path, seals=Seals([KEY]))
    mine = store_report(keyed, "slow_queries", DAY, b"mine")
    assert read_report(keyed, mine) == b"mine"
    forged = store_report(plain, "slow_queries", DAY - timedelta(days=1), b"forged")
    with pytest.raises((FileNotFoundError, Unsealed)):
        read_report(keyed, forged)
    (tmp_path / mine.file).write_bytes(b"changed")
    with pytest.raises(ProofFailed, match="not the file that its manifest describes"):
        read_report(keyed, mine)
    with pytest.raises(ProofFailed, match="not the file that its manifest describes"):
        read_report(plain, mine)
    for ending in (".csv", ".manifest.json"):
        source = tmp_path / mine.file.replace(".csv", ending)
        source.rename(source.with_name(source.name.replace("20261001", "20260901")))
    with pytest.raises(ProofFailed):
        read_report(keyed, next(s for s in stored_reports(keyed) if s.day == date(2026, 9, 1)))


@pytest.mark.parametrize(
    ("data", "why"),
    [(b"", "no table"), (b"\xff\xfe\x00", "no table"), (b"a,b\n1,2\n", "other columns")],
)  # fmt: skip
def test_a_damaged_report_of_a_week_ago_compares_with_nothing_and_ends_nothing(
    sqlite_url: str, tmp_path: Path, data: bytes, why: str
) -> None:
    run(sqlite_url, "CREATE TABLE notes (id INT)")
    reported = Reported([sqlite_url], tmp_path)
    folder = tmp_path / "backups" / "reports"
    folder.mkdir(parents=True)
    (folder / f"table_sizes_{A_WEEK_AGO}.csv").write_bytes(data)
    report = reported.make("table_sizes")
    assert why in report.compared_with
    assert row(report, table="notes")["growth_bytes_per_day"] is None


def test_the_report_of_a_week_ago_is_that_days_first_or_the_newest_before_it(sqlite_url: str, tmp_path: Path) -> None:
    run(sqlite_url, "CREATE TABLE notes (id INT)")
    reported = Reported([sqlite_url], tmp_path)
    for days in (22, 9, 9, 6, 1):
        reported.make("table_sizes", days_ago=days)
    assert reported.make("table_sizes").compared_with.endswith("table_sizes_20260930.csv")
    assert Reported([sqlite_url], tmp_path / "new").make("table_sizes").compared_with.startswith("no report of a week")


def test_reports_are_stored_in_s3_and_in_two_stores_at_once(tmp_path: Path, s3_server: S3Server) -> None:
    with s3_server.bucket() as bucket:
        options = S3Options(bucket.proxy.url, "us-east-1", "test", "test-secret-key")
        there: Storage = open_storage(bucket.uri, s3=options)
        both = MirroredStorage([LocalStorage(tmp_path), there])
        stored = store_report(both, "slow_queries", DAY, b"text")
        assert store_report(both, "slow_queries", DAY, b"more").number == 2
        assert read_report(there, stored) == b"text"
        assert read_report(both, stored) == b"text"
        assert bucket.objects()["saju/reports/slow_queries_20261001.csv"] == b"text"


@pytest.mark.parametrize(
    "name",
    ["reports/slow_queries_20261301.csv", "reports/slow_queries.csv", "reports/x/slow_queries_20261001.csv",
     "reports/slow_queries_20261001.txt", "reports/slow_queries_20261001.manifest.json", "reports/../a_20261001.csv",
     "reports/Notes_20261001.csv", "reports/slow_queries_20261001_0.csv"],
)  # fmt: skip
def test_what_is_no_report_by_its_name_is_none(name: str) -> None:
    assert report_of(name) is None


def test_old_reports_are_pruned_and_the_newest_of_each_stay(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path, seals=Seals([KEY]))
    today = NOW.astimezone(SEOUL).date()
    for age in (REPORT_DAYS + 2, REPORT_DAYS + 1, REPORT_DAYS, 1):
        store_report(storage, "slow_queries", today - timedelta(days=age), b"x")
    (tmp_path / "reports" / "mine_19990101.txt").write_text("x")
    assert prune(storage, Policy(7), now=NOW, zone=SEOUL, dry_run=False).deleted == []
    for age in range(2, NEWEST_REPORTS):
        store_report(storage, "slow_queries", today - timedelta(days=age), b"x")
    before = {path.name for path in (tmp_path / "reports").iterdir()}
    listed = prune(storage, Policy(7), now=NOW, zone=SEOUL)
    assert {path.name for path in (tmp_path / "reports").iterdir()} == before
    assert len(listed.going) == 2
    result = prune(storage, Policy(7), now=NOW, zone=SEOUL, dry_run=False)
    gone = before - {path.name for path in (tmp_path / "reports").iterdir()}
    days = [f"{today - timedelta(days=age):%Y%m%d}" for age in (REPORT_DAYS + 2, REPORT_DAYS + 1)]
    assert gone == {f"slow_queries_{day}{end}" for day in days for end in (".csv", ".manifest.json")}
    assert len(result.deleted) == 2
    assert prune(storage, Policy(7), now=NOW + timedelta(days=9000), zone=SEOUL, dry_run=False).deleted == []


def test_verification_takes_no_report_for_a_stranger(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path, seals=Seals([KEY]))
    store_report(storage, "slow_queries", DAY, b"x")
    result = verify(storage, now=NOW, zone=SEOUL)
    assert result.strangers == []
    assert result.rot == []
