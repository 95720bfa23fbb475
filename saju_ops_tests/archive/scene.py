"""One log table, one backup folder and the three operations on them, for tests to read as sentences.

What a test looks at in the database it reads with its own statements, not with the project's code: `Scene.state`
is what the server says of every cell.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.pool import NullPool

from saju_ops.archive.day import DayResult, archive_day
from saju_ops.archive.manifest import DayFiles, day_files
from saju_ops.archive.purge import purge
from saju_ops.archive.purge_plan import PurgePlan, PurgeResult
from saju_ops.archive.restore import restore
from saju_ops.archive.restore_plan import RestorePlan
from saju_ops.rows.csvfile import Compression
from saju_ops.rows.days import Day, parse_day
from saju_ops.rows.engines.open import RowStore, open_log_store
from saju_ops.run_control import RunControl
from saju_ops.storage.open import Storage, open_storage

SEOUL = ZoneInfo("Asia/Seoul")
UTC_ZONE = ZoneInfo("UTC")
NOW = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)
# 2026-09-30 15:00 to 2026-10-01 15:00 UTC, well beyond a retention of 30 days.
DAY = parse_day("2026-10-01", SEOUL)
NEXT_DAY = parse_day("2026-10-02", SEOUL)
FIRST_DAY = parse_day("2026-01-01", SEOUL)
# A message that must never show up in an exception, a result or a log.
SECRET = "비밀 상담 내용 secret-4711"

MYSQL_TEST_SESSION = "SET SESSION time_zone = '+00:00', sql_mode = 'NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES'"
# What the tests' table is on each engine; `{name}` is its quoted name.
TABLES = {
    "mysql": (
        "CREATE TABLE {name} (log_id bigint AUTO_INCREMENT PRIMARY KEY, session_id varchar(64), role varchar(10),"
        " content text, tokens int, created_at timestamp(6) NOT NULL, KEY ix_created (created_at))"
    ),
    "postgresql": (
        "CREATE TABLE {name} (log_id bigserial PRIMARY KEY, session_id varchar(64), role varchar(10),"
        " content text, tokens int, created_at timestamptz NOT NULL)"
    ),
    "sqlite": (
        "CREATE TABLE {name} (log_id integer PRIMARY KEY AUTOINCREMENT, session_id varchar(64), role varchar(10),"
        " content text, tokens int, created_at timestamp NOT NULL)"
    ),
}


def family(url: str) -> str:
    backend = sa.make_url(url).get_backend_name()
    return "mysql" if backend == "mariadb" else backend


class Scene:
    def __init__(self, url: str, folder: Path, table: str = "conversation_logs", zone: ZoneInfo = UTC_ZONE) -> None:
        self.url, self.table, self.zone = url, table, zone
        self.folder = folder
        self.storage: Storage = open_storage(str(folder))
        self.family = family(url)
        self.engine = sa.create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        if self.family == "mysql":
            event.listen(self.engine, "connect", _pin_mysql, insert=True)
        self.name = self.engine.dialect.identifier_preparer.quote_identifier(table).replace("%%", "%")

    # --- the database, seen by the test -------------------------------------------------------------------

    def run(self, *statements: str, **values: Any) -> list[Any]:
        """Runs statements with :names; the rows of the last one."""
        rows: list[Any] = []
        with self.connected() as connection:
            for statement in statements:
                result = connection.execute(sa.text(statement), values)
                rows = list(result) if result.returns_rows else []
        return rows

    @contextmanager
    def connected(self) -> Iterator[sa.Connection]:
        with self.engine.connect() as connection:
            if self.family == "postgresql":
                connection.exec_driver_sql("SET timezone = 'UTC'")
            elif self.family == "sqlite":
                connection.exec_driver_sql("PRAGMA foreign_keys = ON")
            yield connection

    def create_table(self) -> Scene:
        self.run(TABLES[self.family].format(name=self.name))
        return self

    def add(
        self, count: int = 1, *, first: int = 1, day: Day = DAY, content: str | None = "안녕", tokens: int | None = 1
    ) -> None:
        """Rows with the keys from `first` on, a minute apart, from the day's first minute on."""
        rows = [
            {
                "log_id": first + i, "session_id": f"s{(first + i) % 7}", "role": ("user", "assistant")[i % 2],
                "content": content, "tokens": tokens,
                "created_at": self.time(day.start + timedelta(minutes=1 + i % 1430)),
            }
            for i in range(count)
        ]  # fmt: skip
        self.insert(rows)

    def insert(self, rows: Sequence[dict[str, Any]]) -> None:
        names = list(rows[0])
        quote = self.engine.dialect.identifier_preparer.quote_identifier
        columns, marks = ", ".join(map(quote, names)), ", ".join(f":v{i}" for i in range(len(names)))
        statement = sa.text(f"INSERT INTO {self.name} ({columns}) VALUES ({marks})")  # noqa: S608
        with self.connected() as connection:
            connection.execute(statement, [{f"v{i}": row[n] for i, n in enumerate(names)} for row in rows])

    def time(self, instant: datetime) -> Any:
        naive = instant.astimezone(self.zone).replace(tzinfo=None)
        if self.family == "sqlite":
            return str(naive)
        return instant if self.family == "postgresql" else naive

    def ids(self) -> list[int]:
        return [row[0] for row in self.run(f"SELECT log_id FROM {self.name} ORDER BY log_id")]  # noqa: S608

    def count(self) -> int:
        return int(self.run(f"SELECT COUNT(*) FROM {self.name}")[0][0])  # noqa: S608

    def update(self, what: str, where: str, **values: Any) -> None:
        self.run(f"UPDATE {self.name} SET {what} WHERE {where}", **values)  # noqa: S608

    def remove(self, where: str) -> None:
        self.run(f"DELETE FROM {self.name} WHERE {where}")  # noqa: S608

    def state(self, table: str | None = None) -> list[tuple[Any, ...]]:
        """Every cell as the server prints it, with its type where cells have one, sorted."""
        quote = self.engine.dialect.identifier_preparer.quote_identifier
        name = quote(table).replace("%%", "%") if table else self.name
        return sorted(self._cells(name), key=repr)

    def _cells(self, name: str) -> list[tuple[Any, ...]]:
        columns = {"mysql": _mysql_cells, "postgresql": _postgres_cells, "sqlite": _sqlite_cells}[self.family]
        with self.connected() as connection:
            if self.family == "sqlite":
                raw: Any = connection.connection.driver_connection
                raw.text_factory = bytes
                rows = raw.execute(columns(connection, name)).fetchall()
                return [tuple(_exact(v) for v in row) for row in rows]
            result = connection.exec_driver_sql(columns(connection, name).replace("%", "%%"))
            return [tuple(_exact(v) for v in row) for row in result]

    # --- the project's operations -------------------------------------------------------------------------

    def store(self) -> RowStore:
        return open_log_store(self.url, self.table, self.zone)

    def archive(
        self, day: Day = DAY, *, now: datetime = NOW, compression: Compression = "none", wait: float = 5.0
    ) -> DayResult:
        with self.store() as store:
            return archive_day(store, self.storage, day, now=now, compression=compression, wait=wait)

    def purge(self, *, now: datetime = NOW, wait: float = 5.0, **options: Any) -> PurgeResult:
        control = RunControl(
            **{k: options.pop(k) for k in ("should_stop", "progress", "sleep", "clock") if k in options}
        )
        replicas = options.pop("replicas", ())
        options = {"retention_days": 30, "dry_run": False, **options}
        with self.store() as store:
            plan = PurgePlan(**options)
            return purge(
                store, self.storage, plan, now=now, first_day=FIRST_DAY, replicas=replicas, control=control, wait=wait
            )

    def restore(
        self, first: Day = DAY, last: Day | None = None, *, url: str | None = None, dry_run: bool = False, **more: Any
    ) -> RestorePlan:
        return restore(
            self.storage, url or self.url, first, last or first, zone_of_database=self.zone, source_table=self.table,
            dry_run=dry_run, **more,
        )  # fmt: skip

    # --- the backup folder --------------------------------------------------------------------------------

    def files(self, day: Day = DAY) -> DayFiles:
        return day_files(self.storage, day)

    def parts(self, day: Day = DAY) -> list[int]:
        return [part.rows for part in self.files(day).parts]

    def data_file(self, day: Day = DAY, part: int = 1) -> Path:
        (manifest,) = (m for m in self.files(day).parts if m.part == part)
        return self.folder / manifest.file

    def manifest_file(self, day: Day = DAY, part: int = 1) -> Path:
        data = self.data_file(day, part)
        return data.with_name(data.name.split(".csv")[0] + ".manifest.json")

    def snapshot_of_files(self) -> dict[str, bytes]:
        return {str(p.relative_to(self.folder)): p.read_bytes() for p in self.folder.rglob("*") if p.is_file()}


def _pin_mysql(connection: Any, _record: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(MYSQL_TEST_SESSION)


def _exact(value: Any) -> Any:
    # A float by its bits, so that -0 isn't 0 and NaN is itself.
    return struct.pack(">d", value).hex() if isinstance(value, float) else value


def _mysql_cells(connection: sa.Connection, name: str) -> str:
    rows = connection.exec_driver_sql(f"SHOW COLUMNS FROM {name}".replace("%", "%%")).all()
    cells = []
    for field, kind, *_ in rows:
        column, kind = f"`{field.replace('`', '``')}`", (kind.decode() if isinstance(kind, bytes) else kind)
        if kind.startswith(("float", "double")):
            # The server prints a FLOAT with six digits; as a product with a double it comes whole.
            cells.append(f"{column} * 1e0")
        elif kind.startswith(("enum", "set")):
            cells.append(f"CONCAT(HEX({column}), '/', {column} + 0)")
        elif kind.startswith("bit"):
            cells.append(f"HEX({column} + 0)")
        else:
            raw = any(word in kind for word in ("char", "text", "binary", "blob", "geometry", "point", "vector"))
            cells.append(f"HEX({column})" if raw else f"CAST({column} AS CHAR)")
    return f"SELECT {', '.join(cells)} FROM {name}"  # noqa: S608


def _postgres_cells(connection: sa.Connection, name: str) -> str:
    query = sa.text(
        "SELECT a.attname, format_type(a.atttypid, NULL), t.typtype FROM pg_attribute a JOIN pg_type t ON"
        " t.oid = a.atttypid WHERE a.attrelid = CAST(:name AS regclass) AND attnum > 0 AND NOT attisdropped"
    )
    send = {"double precision": "float8send", "real": "float4send", "numeric": "numeric_send"}
    cells = []
    for field, kind, _ in connection.execute(query, {"name": name}):
        column = '"' + field.replace('"', '""') + '"'
        cells += [f"{column}::text"] + ([f"encode({send[kind]}({column}), 'hex')"] if kind in send else [])
    return f"SELECT {', '.join(cells)} FROM {name}"  # noqa: S608


def _sqlite_cells(connection: sa.Connection, name: str) -> str:
    raw: Any = connection.connection.driver_connection
    rows = raw.execute(f"SELECT name FROM pragma_table_xinfo({_sqlite_literal(name)})").fetchall()  # noqa: S608
    names = [r[0].decode().replace('"', '""') for r in rows]
    cells = [f'typeof("{n}"), "{n}"' for n in names]
    return f"SELECT {', '.join(cells)} FROM {name}"  # noqa: S608


def _sqlite_literal(quoted: str) -> str:
    return "'" + quoted[1:-1].replace('""', '"').replace("'", "''") + "'"
