"""Measures the archive core against its peers on one server, one table, in one run, and prints the ratios.

    python -m benchmarks [--engine mysql|mariadb] [--rows N] [--rounds N] [--full] [--only NAME …]

Each measurement is a process of its own; ours and the peers' take turns, and the best of the rounds counts. It starts
its own server with a buffer pool that holds the table, and leaves nothing behind but the results. No client encrypts
its connection on this one machine: pt-archiver doesn't by default, and PyMySQL, for ours and pandas, is set not to.
"""

# ruff: noqa: S608 (the names in these statements are this package's own)

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pymysql
import sqlalchemy as sa

from benchmarks import birth, dagster_run, dumps, expired, partitions, rows, stale
from benchmarks.report import Line, machine, save, show
from saju_ops_tests.engines import Engine, MariaDB, MySQL

CHUNK = 5_000
MB = 1 << 20
PARTS = ("archive", "purge", "restore", "memory", "year", "load", "dumps", "stale", "expired", "partitions", "birth")


class Bench:
    def __init__(self, server: Engine, url: str, folder: Path, options: argparse.Namespace) -> None:
        self.server, self.url, self.folder, self.options = server, url, folder, options
        self.lines: list[Line] = []
        self.measured: dict[str, Any] = {}
        self.rows_file = folder / "rows.tsv"
        parsed = sa.make_url(url)
        self.database = str(parsed.database)
        self.connection = pymysql.connect(
            host=parsed.host, port=parsed.port or 3306, user=parsed.username, password=str(parsed.password),
            database=self.database, charset="utf8mb4", local_infile=True, autocommit=True,
        )  # fmt: skip
        self.cursor = self.connection.cursor()
        self.defaults = folder / "client.cnf"
        self.defaults.touch(mode=0o600)
        self.defaults.write_text(f"[client]\npassword={parsed.password}\n")

    # --- measuring -----------------------------------------------------------------------------------------

    def child(self, name: str, task: str, **job: Any) -> dict[str, Any]:
        """Runs a task of benchmarks.child in a fresh process and stores its result."""
        self._settle()
        command = [sys.executable, "-m", "benchmarks.child", task, json.dumps({"url": self.url, **job})]
        cpu = self._server_cpu()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{name} failed:\n{done.stderr[-3000:]}")
        return self._keep(name, {**json.loads(done.stdout), "server_cpu": self._server_cpu() - cpu})

    def pt_archiver(self, name: str, table: str, *options: str, where: str = "1=1") -> dict[str, Any]:
        self.cursor.execute(f"SELECT COUNT(*) FROM {table} WHERE {where}")
        count = int((self.cursor.fetchone() or (0,))[0])
        self._settle()
        file = self.folder / f"{name.replace(' ', '_')}.txt"
        file.unlink(missing_ok=True)
        parsed = sa.make_url(self.url)
        server = f"F={self.defaults},h={parsed.host},P={parsed.port},u={parsed.username},A=utf8mb4"
        command = ["pt-archiver", "--source", f"{server},D={self.database},t={table}", "--where", where]
        command += ["--file", str(file)]
        command += ["--limit", str(CHUNK), "--commit-each", "--no-safe-auto-increment", "--no-check-charset"]
        began, cpu, server_cpu = time.monotonic(), _children_cpu(), self._server_cpu()
        done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"pt-archiver failed: {done.stderr[-2000:]}")
        seconds = time.monotonic() - began
        file.unlink()
        result = {"rows": count, "seconds": seconds, "cpu": _children_cpu() - cpu}
        return self._keep(name, {**result, "server_cpu": self._server_cpu() - server_cpu})

    def _keep(self, name: str, result: dict[str, Any]) -> dict[str, Any]:
        result["rows_per_second"] = result["rows"] / result["seconds"]
        self.measured.setdefault(name, []).append(result)
        print(
            f"  {name}: {result['rows']:,} rows in {result['seconds']:.2f} s, {result['rows_per_second']:,.0f}"
            f" rows/s, CPU {result.get('cpu', 0):.1f} + server {result.get('server_cpu', 0):.1f} s",
            flush=True,
        )
        return result

    def best(self, name: str) -> dict[str, Any]:
        return min(self.measured[name], key=lambda result: result["seconds"])

    def rate(self, name: str) -> float:
        return float(self.best(name)["rows_per_second"])

    def _server_cpu(self) -> float:
        fields = Path(f"/proc/{self.server.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _settle(self) -> None:
        """Waits until the server has cleaned up after the last measurement, so that the next starts alike."""
        for _ in range(60):
            self.cursor.execute("SHOW ENGINE INNODB STATUS")
            status = str((self.cursor.fetchone() or ("", "", ""))[2])
            left = status.split("History list length ")[1].split()[0] if "History list length" in status else "0"
            before = self._server_cpu()
            time.sleep(0.5)
            if int(left) < 50 and self._server_cpu() - before < 0.05:
                return

    @contextmanager
    def storage(self) -> Iterator[str]:
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        try:
            yield str(folder)
        finally:
            shutil.rmtree(folder)

    def say(self, line: Line) -> None:
        self.lines.append(line)

    # --- measurements ----------------------------------------------------------------------------------

    def prepare(self) -> None:
        print(f"Making {self.options.rows:,} rows …", flush=True)
        rows.write_rows(self.rows_file, self.options.rows)
        self.cursor.execute(rows.CREATE)
        rows.load(self.cursor, self.rows_file)
        self.cursor.execute(f"ANALYZE TABLE {rows.TABLE}")
        size = self.rows_file.stat().st_size / self.options.rows
        self.measured["bytes_per_row"] = size
        print(f"  loaded, {size:.0f} bytes a row", flush=True)

    def archive(self) -> None:
        source = rows.TABLE
        self.pt_archiver("pt-archiver, warming up", source, "--no-delete", where="log_id <= 50000")
        for _ in range(self.options.rounds):
            with self.storage() as storage:
                self.child("archive", "archive", table=source, storage=storage)
            self.child("pandas", "pandas", table=source, file=str(self.folder / "pandas.csv"))
            with self.storage() as storage:
                self.child("archive", "archive", table=source, storage=storage)
            self.pt_archiver("pt-archiver --no-delete", source, "--no-delete")
            self._outfile()
        with self.storage() as storage:
            self.child("archive, gzip", "archive", table=source, storage=storage, compression="gzip")
        ours = self.rate("archive")
        for peer, wanted in (("pandas", 6.0), ("pt-archiver --no-delete", 6.0), ("INTO OUTFILE", None)):
            peer_rate = f"{peer}: {self.rate(peer):,.0f}"
            self.say(Line("archive + proof", f"{ours:,.0f} rows/s", peer_rate, ours / self.rate(peer), wanted))
        self.say(Line("  the same with gzip", f"{self.rate('archive, gzip'):,.0f} rows/s"))
        self.say(Line("  pandas' peak memory", f"{self.best('pandas')['peak_bytes'] / MB:,.0f} MB"))

    def _outfile(self) -> None:
        assert self.server.folder is not None
        file = self.server.folder / "files" / f"{time.monotonic_ns()}.txt"
        self._settle()
        began, cpu = time.monotonic(), self._server_cpu()
        self.cursor.execute(f"SELECT * FROM {rows.TABLE} INTO OUTFILE '{file}'")
        result = {"rows": self.cursor.rowcount, "seconds": time.monotonic() - began}
        self._keep("INTO OUTFILE", {**result, "server_cpu": self._server_cpu() - cpu})
        file.unlink()

    def purge(self) -> None:
        for _ in range(self.options.rounds):
            table = rows.copy_of(self.cursor, "to_purge")
            with self.storage() as storage:
                self.child("archive + purge", "archive", table=table, storage=storage, purge=True)
            table = rows.copy_of(self.cursor, "to_purge")
            self.pt_archiver("pt-archiver --bulk-delete", table, "--bulk-delete")
            self._delete_alone(rows.copy_of(self.cursor, "to_purge"))
        self.cursor.execute("DROP TABLE to_purge")
        ours, theirs = self.rate("archive + purge"), self.rate("pt-archiver --bulk-delete")
        peer = f"pt-archiver --bulk-delete: {theirs:,.0f}"
        self.say(Line("archive + proof + purge", f"{ours:,.0f} rows/s", peer, ours / theirs, 2.0))
        self.say(Line("  3 times is wanted", "", "", ours / theirs, 3.0))
        alone = self.rate("DELETE alone")
        peer = f"DELETE alone, nothing read or kept: {alone:,.0f}"
        self.say(Line("  against the server's limit", f"{ours:,.0f} rows/s", peer, ours / alone))

    def _delete_alone(self, table: str) -> None:
        """What the server needs for the deletes alone, in the same chunks: nothing can be faster."""
        self._settle()
        began, cpu, deleted = time.monotonic(), self._server_cpu(), 0
        for first in range(1, self.options.rows + 1, CHUNK):
            self.cursor.execute(f"DELETE FROM {table} WHERE log_id BETWEEN {first} AND {first + CHUNK - 1}")
            deleted += self.cursor.rowcount
        result = {"rows": deleted, "seconds": time.monotonic() - began}
        self._keep("DELETE alone", {**result, "server_cpu": self._server_cpu() - cpu})

    def restore(self) -> None:
        source = rows.TABLE
        with self.storage() as storage:
            self.child("archive for the restore", "archive", table=source, storage=storage)
            for _ in range(self.options.rounds):
                for name, task, job in (
                    ("LOAD DATA LOCAL INFILE", "load_data", {"file": str(self.rows_file)}),
                    ("restore", "restore", {"storage": storage, "source": source}),
                ):
                    self.cursor.execute("DROP TABLE IF EXISTS restored")
                    self.cursor.execute(f"CREATE TABLE restored LIKE {source}")
                    self.child(name, task, table="restored", **job)
        self.cursor.execute("DROP TABLE restored")
        ours, theirs = self.best("restore")["seconds"], self.best("LOAD DATA LOCAL INFILE")["seconds"]
        peer = f"LOAD DATA LOCAL INFILE: {theirs:.1f} s"
        self.say(Line("restore", f"{ours:.1f} s", peer, ours / theirs, 1.5, more=False))

    def memory(self) -> None:
        """Peak memory of the whole process: days as they are, all rows in one day, ten times the rows."""
        count = self.options.rows
        at = f"FROM_UNIXTIME({rows.START} + FLOOR(log_id * 86000 / {count + 1}))"
        one = rows.derived(self.cursor, "one_day", "log_id", at)
        with self.storage() as storage:
            self.child(f"archive, {count:,} rows", "archive", table=rows.TABLE, storage=storage)
        with self.storage() as storage:
            self.child(f"archive, {count:,} rows in one day", "archive", table=one, storage=storage)
        self.cursor.execute("DROP TABLE one_day")
        for name in (f"archive, {count:,} rows", f"archive, {count:,} rows in one day"):
            self._memory_line(name)
        self.say(Line("  rows/s with all in one day", f"{self.rate(name):,.0f} rows/s"))
        if not self.options.full:
            return
        self.cursor.execute(f"CREATE TABLE ten_times LIKE {rows.TABLE}")
        for number in range(10):
            for part in range(10):
                where = f"log_id > {count * part // 10} AND log_id <= {count * (part + 1) // 10}"
                rows.add(self.cursor, "ten_times", f"(log_id - 1) * 10 + {number + 1}", "created_at", where)
        with self.storage() as storage:
            self.child(f"archive, {10 * count:,} rows", "archive", table="ten_times", storage=storage)
        self.cursor.execute("DROP TABLE ten_times")
        self._memory_line(f"archive, {10 * count:,} rows")

    def _memory_line(self, name: str) -> None:
        peak = self.best(name)["peak_bytes"] / MB
        self.say(Line(f"memory: {name}", f"{peak:,.0f} MB", "256 MB", peak / 256, 1.0, more=False))

    def year(self) -> None:
        """365 days of 100 rows each, up to yesterday: Dagster has no partitions in the future."""
        seoul = ZoneInfo("Asia/Seoul")
        first = datetime.now(seoul).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=365)
        start = int(first.timestamp())
        at = f"FROM_UNIXTIME({start} + FLOOR((log_id - 1) / 100) * 86400 + MOD(log_id - 1, 100) * 800)"
        table = rows.derived(self.cursor, "a_year", "log_id", at, "log_id <= 36500")
        with self.storage() as storage:
            self.child("365 days of 100 rows", "archive", table=table, storage=storage)
        seconds = self.best("365 days of 100 rows")["seconds"]
        self.say(Line("365 days of 100 rows", f"{seconds:.1f} s", "60 s", seconds / 60, 1.0, more=False))
        if not dagster_run.definitions_exist():
            self.say(Line("  the same as one Dagster run", "", note="skipped: no saju_ops.definitions yet"))
            return
        with self.server.database() as url, self.storage() as folder:
            own = str(sa.make_url(url).database)
            self.cursor.execute(f"CREATE TABLE {own}.{rows.TABLE} LIKE {rows.TABLE}")
            self.cursor.execute(f"INSERT INTO {own}.{rows.TABLE} SELECT * FROM {table}")
            last = first + timedelta(days=364)
            seconds = dagster_run.materialize(url, Path(folder), f"{first:%Y-%m-%d}", f"{last:%Y-%m-%d}")
        self.measured["365 days, Dagster"] = seconds
        taken = f"{seconds:.1f} s"
        self.say(Line("  the same as one Dagster run", taken, "60 s", seconds / 60, 1.0, more=False))

    def dumps(self) -> None:
        dumps.measure(self)

    def stale(self) -> None:
        stale.measure(self)

    def expired(self) -> None:
        expired.measure(self)

    def partitions(self) -> None:
        partitions.measure(self)

    def birth(self) -> None:
        birth.measure(self)

    def load(self) -> None:
        if not dagster_run.definitions_exist():
            self.say(Line("cold load of the definitions", "", note="skipped: no saju_ops.definitions yet"))
            return
        ours, bare = dagster_run.cold_load()
        self.measured["cold load"] = {"definitions": ours, "import dagster": bare}
        peer = f"import dagster: {bare:.2f} s"
        self.say(Line("cold load of the definitions", f"{ours:.2f} s", peer, ours / bare, 1.5, more=False))


def _children_cpu() -> float:
    times = os.times()
    return times.children_user + times.children_system


def parse(arguments: list[str]) -> argparse.Namespace:
    about = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=about)
    parser.add_argument("--engine", choices=("mysql", "mariadb"), default="mysql")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=2, help="turns of each side; the best of them counts")
    parser.add_argument("--full", action="store_true", help="also ten times the rows: 10 minutes, 12 GB of disk")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    return parser.parse_args(arguments)


def server_for(options: argparse.Namespace) -> Engine:
    pool = "--innodb-buffer-pool-size=2G"
    if options.engine == "mariadb":
        return MariaDB([pool, "--innodb-log-file-size=2G"])
    return MySQL([pool, "--innodb-redo-log-capacity=2G"])


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    with server_for(options) as server, server.database() as url, tempfile.TemporaryDirectory() as folder:
        bench = Bench(server, f"{url}?ssl_disabled=true", Path(folder), options)
        about = {"engine": options.engine, "rows": options.rows, **machine()}
        bench.cursor.execute("SELECT VERSION()")
        about["server"] = str((bench.cursor.fetchone() or ("",))[0])
        bench.prepare()
        for part in PARTS:
            if part in options.only:
                print(f"{part} …", flush=True)
                getattr(bench, part)()
        print("\n" + ", ".join(f"{name} {value}" for name, value in about.items()) + "\n")
        show(bench.lines)
        print(f"\nWritten to {save(bench.lines, bench.measured, about)}")


if __name__ == "__main__":
    main(sys.argv[1:])
