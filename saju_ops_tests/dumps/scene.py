"""Databases with everything in them that a dump can lose, and the client programs of both kinds."""

# ruff: noqa: S608 (the statements are this module's own)

from __future__ import annotations

import gzip
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from saju_ops.database.connect import connect, parse_database_url
from saju_ops.dumps.restore import RestoreRequest, RestoreResult, restore_dump
from saju_ops.dumps.take import DumpOptions, DumpResult, take_dump
from saju_ops.storage.open import open_storage
from saju_ops_tests.engines import Engine, MySQL

SEOUL = ZoneInfo("Asia/Seoul")
AT_THREE = datetime(2026, 9, 30, 18, 0, 0, tzinfo=UTC)
ODD = "we`ird \"t.a' 한글"
EMOJI = "사주 🔮 \\ ' \" ` \n\t\r\x1a 끝"

MYSQL = [
    "SET SESSION sql_mode = 'ALLOW_INVALID_DATES'",
    "CREATE TABLE parent (id int PRIMARY KEY, name varchar(50))",
    "CREATE TABLE `we``ird \"t.a' 한글` (id bigint unsigned PRIMARY KEY AUTO_INCREMENT, `a b``c` varchar(200),"
    " latin varchar(20) CHARACTER SET latin1, bin varbinary(20), blobs longblob, bits bit(12), zero datetime,"
    " at timestamp(6) NULL, money decimal(20,6), dbl double, j json, en enum('a','가''b'), st set('x','y'),"
    " tm time(3), yr year, parent_id int, FOREIGN KEY (parent_id) REFERENCES parent (id), KEY odd (`a b``c`))",
    "CREATE TABLE no_key (v varchar(10), w int)",
    "CREATE TABLE empty_one (id int)",
    "CREATE TABLE parts (id int PRIMARY KEY, v text) PARTITION BY RANGE (id) (PARTITION p0 VALUES LESS THAN (10),"
    " PARTITION p1 VALUES LESS THAN MAXVALUE)",
    "CREATE VIEW seen AS SELECT v, w FROM no_key",
    "CREATE TRIGGER before_parts BEFORE INSERT ON parts FOR EACH ROW SET NEW.v = CONCAT(NEW.v, '!')",
    "CREATE PROCEDURE doing(IN a varchar(10)) BEGIN\n-- USE nothing\nSELECT a;\nEND",
    "CREATE FUNCTION adding(a int) RETURNS int DETERMINISTIC RETURN a + 1",
    "CREATE EVENT sweeping ON SCHEDULE EVERY 1 DAY STARTS '2037-01-01 00:00:00' COMMENT 'ENABLE DO' DO"
    " DELETE FROM parts WHERE id < 0",
]
POSTGRES = [
    'CREATE SCHEMA "od d"',
    "CREATE TYPE mood AS ENUM ('good', '나쁨')",
    "CREATE TABLE parent (id int PRIMARY KEY, name varchar(50))",
    'CREATE TABLE "od d"."we""ird t.a \'한글" (id bigserial PRIMARY KEY, "a b""c" text, bin bytea, f4 real, f8 double'
    " precision, money numeric(30,10), j jsonb, m mood, at timestamptz, naive timestamp, arr int[], twice int GENERATED"
    " ALWAYS AS (parent_id * 2) STORED, parent_id int REFERENCES parent (id))",
    "CREATE TABLE no_key (v varchar(10), w int)",
    "CREATE TABLE empty_one (id int)",
    "CREATE TABLE parts (id int, v text) PARTITION BY RANGE (id)",
    "CREATE TABLE parts_0 PARTITION OF parts FOR VALUES FROM (0) TO (10)",
    "CREATE VIEW seen AS SELECT v, w FROM no_key",
    "CREATE MATERIALIZED VIEW seen_once AS SELECT count(*) FROM no_key",
    # PostgreSQL prints IN on a varchar in one way, and once it is restored in another.
    "CREATE TABLE chosen (role varchar(20) CHECK (role IN ('user', 'a, ]''b')), n int, big varchar(9) GENERATED ALWAYS"
    " AS (CASE WHEN role IN ('user', 'x') THEN 'u' END) STORED)",
    "CREATE INDEX chosen_some ON chosen (n) WHERE role NOT IN ('user', 'b')",
    "CREATE VIEW chosen_seen AS SELECT n, role IN ('user', NULL) AS known FROM chosen WHERE n IN (1, 2)",
    "CREATE FUNCTION louder() RETURNS trigger LANGUAGE plpgsql AS $$ begin\nNEW.v = NEW.v || '!';\nreturn NEW;\nend $$",
    "CREATE TRIGGER before_parts BEFORE INSERT ON parts_0 FOR EACH ROW EXECUTE FUNCTION louder()",
]
SQLITE = [
    "CREATE TABLE parent (id INTEGER PRIMARY KEY, name TEXT)",
    'CREATE TABLE "we""ird t.a \'한글" (id INTEGER PRIMARY KEY AUTOINCREMENT, "a b""c" TEXT, bin BLOB, any_type,'
    " twice GENERATED ALWAYS AS (parent_id * 2) STORED, parent_id INTEGER REFERENCES parent (id))",
    "CREATE TABLE no_key (v TEXT, w INTEGER)",
    "CREATE TABLE empty_one (id INTEGER)",
    "CREATE TABLE parts (id INTEGER PRIMARY KEY, v TEXT)",
    "CREATE VIEW seen AS SELECT v, w FROM no_key",
    "CREATE TRIGGER before_parts AFTER INSERT ON parts BEGIN UPDATE no_key SET w = w; END",
]


def fill(url: str) -> None:
    """Makes the tables, and rows with every kind of value."""
    parsed = parse_database_url(url)
    family = parsed.get_backend_name()
    if family == "sqlite":
        Path(str(parsed.database)).touch()
    statements = {"postgresql": POSTGRES, "sqlite": SQLITE}.get(family, MYSQL)
    rows: list[tuple[str, list[Any]]] = [
        ("INSERT INTO parent VALUES (%s, %s)", [1, "부모"]),
        ("INSERT INTO no_key VALUES (%s, %s)", ["twice", 1]),
        ("INSERT INTO no_key VALUES (%s, %s)", ["twice", 1]),
        ("INSERT INTO no_key VALUES (%s, %s)", [None, None]),
        ("INSERT INTO parts VALUES (%s, %s)", [5, "five"]),
    ]
    everything = bytes(range(256))
    if family == "postgresql":
        names = '"a b""c", bin, f4, f8, money, j, m, at, naive, arr, parent_id'
        odd = f'INSERT INTO "od d"."we""ird t.a \'한글" ({names}) VALUES ({", ".join(["%s"] * 11)})'
        rows.append((odd, [
            EMOJI, everything, 0.1234567, 1e-300, "1234567890.0123456789", '{"가": [1, null]}', "나쁨",
            "2026-01-01 00:00:00.123456+09", "0001-01-01 00:00:00", [1, None], 1,
        ]))  # fmt: skip
        rows.append((odd, ["\\.", b"", "NaN", "-Infinity", None, None, None, None, None, None, None]))
    elif family == "sqlite":
        odd = 'INSERT INTO "we""ird t.a \'한글" ("a b""c", bin, any_type, parent_id) VALUES (%s, %s, %s, %s)'
        rows += [(odd, [EMOJI, everything, 1.5, 1]), (odd, [None, b"", "1", None]), (odd, [b"\xff\xfe", 7, 2**62, 1])]
    else:
        names = "`a b``c`, latin, bin, blobs, bits, zero, at, money, dbl, j, en, st, tm, yr, parent_id"
        odd = f"INSERT INTO `we``ird \"t.a' 한글` ({names}) VALUES ({', '.join(['%s'] * 15)})"
        rows.append((odd, [
            EMOJI, "caf\u00e9", b"\x00\xff'\\", everything, 0b101010101010, "0000-00-00 00:00:00",
            "2026-01-01 00:00:00.123456", "12345678901234.123456", 2.2250738585072014e-308,
            '{"가": [1, null, "🔮"]}', "가'b", "x,y", "-12:30:00.5", 2026, 1,
        ]))  # fmt: skip
        rows.append((odd, ["),(", "", b"", b"", 0, None, None, None, -0.5, "[]", "a", "", "838:59:59", 1901, None]))
    with connect(parsed).connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement.replace("%", "%%"))
        for statement, values in rows:
            text = statement.replace("%s", "?") if family == "sqlite" else statement
            connection.exec_driver_sql(text, tuple(values))
        connection.commit()
        if family == "sqlite":
            connection.exec_driver_sql("PRAGMA user_version = 5")


def everything(url: sa.URL | str) -> dict[str, list[str]]:
    """Every row of every table and view as the driver gives it: not by the code that is under test."""
    found = {}
    with sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
        if connection.dialect.name == "sqlite":
            driver: Any = connection.connection.driver_connection
            driver.text_factory = lambda data: data.decode(errors="surrogateescape")
        inspector, quote = sa.inspect(connection), connection.dialect.identifier_preparer.quote
        schemas = ["public", "od d"] if connection.dialect.name == "postgresql" else [None]
        for schema in schemas:
            if schema and schema not in inspector.get_schema_names():
                continue
            for name in [*inspector.get_table_names(schema), *inspector.get_view_names(schema)]:
                full = f"{quote(schema)}.{quote(name)}" if schema else quote(name)
                rows = connection.exec_driver_sql(f"SELECT * FROM {full}").all()
                # As Python writes them: NaN is not equal to itself.
                found[full] = sorted(repr(tuple(row)) for row in rows)
    return found


def options(**more: Any) -> DumpOptions:
    return DumpOptions(SEOUL, **more)


class Dumps:
    """A storage and a database, dumped and restored as a user would."""

    def __init__(self, url: str, folder: Path, password: str | None = None) -> None:
        self.url = parse_database_url(url)
        self.folder = folder / "backups"
        self.storage = open_storage(str(self.folder), password)
        self.said: list[str] = []

    def take(self, **more: Any) -> DumpResult:
        return take_dump(self.url, self.storage, options(**more), now=lambda: AT_THREE, say=self.said.append)

    def restore(self, into: str | None = None, **more: Any) -> RestoreResult:
        target = parse_database_url(into) if into else None
        request = RestoreRequest(into=target, **{"dry_run": False, **more})
        return restore_dump(self.storage, request, default=self.url, say=self.said.append)

    def names(self) -> list[str]:
        return sorted(self.storage.names(""))

    def files(self) -> list[Path]:
        """Also those on their way."""
        return [p for p in self.folder.rglob("*") if p.is_file()] if self.folder.exists() else []

    def content(self, result: DumpResult) -> bytes:
        return gzip.decompress((self.folder / result.manifest.file).read_bytes())


def scratch_databases(server: Engine) -> list[str]:
    listed = "SELECT datname FROM pg_database" if server.name == "PostgreSQL" else "SHOW DATABASES"
    names = [v.decode() if isinstance(v, bytes) else str(v) for (v,) in server.execute(listed)]
    return sorted(n for n in names if n.startswith("saju_ops_drill_"))


def oracle_clients(folder: Path, *, only: bool = True) -> str:
    """A PATH on which `mysqldump` and `mysql` are Oracle's, out of the unpacked tree, and MariaDB's are not there."""
    folder.mkdir(exist_ok=True)
    plugins = MySQL.tree() / "usr/lib/mysql/plugin"
    for name in ("mysqldump", "mysql"):
        program = MySQL.program(f"usr/bin/{name}")
        assert program, f"{name} is missing in {MySQL.tree()}: run `make test` as root once"
        quoted = " ".join(f"'{part}'" for part in program)
        script = folder / name
        # --defaults-file must come first, and behind `--` no option may come: the plugins' folder is put in between.
        run = f'OPENSSL_CONF=/dev/null exec {quoted} "$first" --plugin-dir=\'{plugins}\' "$@"'
        script.write_text(f"#!/bin/sh\nfirst=$1\nshift\n{run}\n")
        script.chmod(0o755)
    return str(folder) if only else f"{folder}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture
def oracle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", oracle_clients(tmp_path / "oracle"))
