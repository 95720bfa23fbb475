"""One day into one file: what is written, what is left alone, and what is refused."""

from __future__ import annotations

import json
import logging
import shutil
import stat
import threading
import traceback
import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from saju_ops.archive.due import due_days
from saju_ops.errors import Busy, OperatorError, ProofFailed, Refused
from saju_ops.rows.csvfile import CsvSink
from saju_ops.rows.days import parse_day
from saju_ops.rows.engines.mysql import pieces as mysql_pieces
from saju_ops.rows.engines.mysql import reading as mysql
from saju_ops.rows.engines.mysql.pieces import _DayInPieces
from saju_ops.rows.engines.mysql.store import MySQLRowStore
from saju_ops.rows.engines.open import open_log_store
from saju_ops_tests.archive.scene import DAY, NEXT_DAY, SECRET, SEOUL, TABLES, UTC_ZONE, Scene
from saju_ops_tests.engines import MySQL


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Scene:
    return Scene(database_url, tmp_path / "backups").create_table()


@pytest.fixture(params=["mysql", "mariadb"])
def mysql_scene(request: pytest.FixtureRequest, tmp_path: Path) -> Scene:
    return Scene(request.getfixturevalue(f"{request.param}_url"), tmp_path / "backups").create_table()


# --- a day for the first time -----------------------------------------------------------------------------


@pytest.mark.long
def test_a_day_is_archived_with_a_manifest_and_a_proof(scene: Scene) -> None:
    scene.add(20)
    result = scene.archive()
    assert (result.outcome, result.rows, result.rows_written) == ("archived", 20, 20)
    assert result.proof["rows_in_file"] == result.proof["rows_in_database"] == 20
    names = sorted(p.name for p in scene.folder.rglob("*") if p.is_file())
    assert names == ["conversation_log_backup_20261001.csv", "conversation_log_backup_20261001.manifest.json"]
    assert scene.count() == 20


@pytest.mark.long
def test_a_day_that_is_not_over_is_refused(scene: Scene) -> None:
    scene.add(1)
    with pytest.raises(Refused, match="not over"):
        scene.archive(now=DAY.end - timedelta(microseconds=1))
    assert scene.snapshot_of_files() == {}
    assert scene.archive(now=DAY.end).outcome == "archived"


def test_a_day_without_rows_is_nothing_to_archive(scene: Scene) -> None:
    scene.add(1, day=NEXT_DAY)
    result = scene.archive()
    assert (result.outcome, result.rows) == ("nothing", 0)
    assert "Nothing to archive" in result.message
    assert scene.snapshot_of_files() == {}


def test_gzip_gives_the_same_bytes_each_time(scene: Scene) -> None:
    scene.add(500)
    scene.archive(compression="gzip")
    first = scene.data_file().read_bytes()
    assert scene.data_file().name == "conversation_log_backup_20261001.csv.gz"
    shutil.rmtree(scene.folder)
    scene.archive(compression="gzip")
    assert scene.data_file().read_bytes() == first


def test_files_and_folders_are_for_their_owner_alone(scene: Scene) -> None:
    scene.add(1)
    scene.archive()
    for path in scene.folder.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.long
def test_the_table_may_be_called_conversation_log(database_url: str, tmp_path: Path) -> None:
    scene = Scene(database_url, tmp_path / "backups", "conversation_log").create_table()
    scene.add(3)
    assert scene.archive().rows == 3
    assert scene.purge().deleted == 3
    assert scene.restore().written == 3


ODD_NAMES = ["대화 기록 100%", 'a "quoted" `name\'s', "select", "semi;colon:x %s", "Mixed.Case\\x"]


@pytest.mark.long
@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_with_quotes_blanks_and_reserved_words_work(database_url: str, tmp_path: Path, name: str) -> None:
    scene = Scene(database_url, tmp_path / "backups", name)
    quote = scene.engine.dialect.identifier_preparer.quote_identifier
    column, index = quote(f"col {name}").replace("%%", "%"), quote(f"ix {name}").replace("%%", "%")
    ddl = TABLES[scene.family].format(name=scene.name)
    if scene.family == "mysql":
        ddl = ddl.replace("ix_created", index)
    escaped = ddl.replace("content text", f"content text, {column} varchar(20)").replace(":", "\\:")
    with scene.connected() as connection:
        connection.execute(sa.text(escaped))
    scene.add(5)
    original = scene.state()
    assert scene.archive().rows == 5
    assert scene.purge(chunk_size=2).deleted == 5
    assert scene.restore().written == 5
    assert scene.state() == original
    assert scene.restore(table=f"{name} 2").written == 5
    assert scene.state(f"{name} 2") == original


# --- one content, whatever the way ------------------------------------------------------------------------


def pieces_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each piece that was read."""
    rows: list[int] = []
    original = _DayInPieces._fetched

    def counted(self: _DayInPieces) -> Iterator[Any]:
        for text, piece in original(self):
            rows.append(piece.rows)
            yield text, piece

    monkeypatch.setattr(_DayInPieces, "_fetched", counted)
    return rows


def manifest_of(scene: Scene) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(scene.manifest_file().read_bytes())
    return found


def by_the_plain_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MySQLRowStore, "piece_rows", lambda *_: None)


MYSQL_COLUMNS = (
    "t time(6), f float, d double, n decimal(65,30), u bigint unsigned, z int(8) zerofill, b bit(64), e enum('Y','N'),"
    " s set('a','b'), j json, bin varbinary(20), bl longblob, y year, dt datetime(6), da date, l varchar(20) CHARACTER"
    " SET latin1, k varchar(20) CHARACTER SET euckr, m mediumtext, g point"
)
MYSQL_VALUES = (
    "t = IF(log_id = 5, NULL, '-838:59:59'), f = 0.1, d = -2.2250738585072014e-308,"
    " n = -99999999999999999999999999999999999.000000000000000000000000000001, u = 18446744073709551615, z = 42,"
    " b = 18446744073709551615, e = 'N', s = 'a,b', j = '{\"가\": 1.5, \"b\": [null]}', bin = x'00FF0A22', bl = x'',"
    " y = 2026, dt = '0000-00-00 00:00:00', da = '2026-02-31', l = 'é', k = '가', m = '\"\r\n,', g = POINT(1, 2)"
)


def test_pieces_and_the_plain_cursor_give_the_same_bytes(mysql_scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = mysql_scene
    columns = ", ".join(f"ADD {c}" for c in MYSQL_COLUMNS.replace(",30)", ";30)").split(", ")).replace(";", ",")
    scene.run(f"ALTER TABLE {scene.name} {columns}")
    scene.add(9, content='한글 "🙂"\r\n')
    scene.update(MYSQL_VALUES.replace(":", "\\:"), "log_id > 1")
    scene.update("content = ''", "log_id = 3")
    scene.update("content = '\",\"'", "log_id = 4")
    rows = pieces_read(monkeypatch)
    scene.archive()
    assert sum(rows) == 9
    fast = scene.data_file().read_bytes()
    assert manifest_of(scene)["digest_algorithm"] == "sha256-pieces-v1"
    shutil.rmtree(scene.folder)
    by_the_plain_cursor(monkeypatch)
    scene.archive()
    assert sum(rows) == 9
    assert scene.data_file().read_bytes() == fast
    assert manifest_of(scene)["digest_algorithm"] == "xor64-sha256-v1"


@pytest.mark.long
@pytest.mark.parametrize("gzip", [False, True])
def test_a_day_of_many_pieces_is_proven_and_found_unchanged(
    mysql_scene: Scene, monkeypatch: pytest.MonkeyPatch, gzip: bool
) -> None:
    scene = mysql_scene
    scene.add(200)
    monkeypatch.setattr(mysql_pieces, "PIECE_BYTES", 1_000)
    rows = pieces_read(monkeypatch)
    assert scene.archive(compression="gzip" if gzip else "none").outcome == "archived"
    assert sum(rows) == 200
    assert len(rows) > 5
    pieces = manifest_of(scene)["pieces"]
    assert [p["rows"] for p in pieces] == rows
    assert (pieces[0]["first_key"], pieces[-1]["last_key"]) == (["1"], ["200"])
    assert scene.archive().outcome == "unchanged"
    scene.update("tokens = tokens + 1", "log_id = 77")
    assert (again := scene.archive()).outcome == "archived"
    assert again.rows_written == 1
    assert scene.archive().outcome == "unchanged"


@pytest.mark.long
@pytest.mark.parametrize("late", [0, 50, 201])
def test_a_row_that_came_before_between_or_after_the_pieces_is_seen(mysql_scene: Scene, late: int) -> None:
    scene = mysql_scene
    scene.add(200)
    scene.remove("log_id = 50")
    scene.archive()
    assert scene.archive().outcome == "unchanged"
    scene.add(1, first=late)
    again = scene.archive()
    assert (again.outcome, again.rows_written) == ("archived", 1)


def test_a_day_is_cut_where_its_rows_are_large(mysql_scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = mysql_scene
    scene.add(40)
    scene.update("content = REPEAT('가', 2000)", "log_id BETWEEN 21 AND 30")
    monkeypatch.setattr(mysql_pieces, "PIECE_BYTES", 10_000)
    monkeypatch.setattr(mysql, "LARGEST_PIECE", 20_000)
    rows = pieces_read(monkeypatch)
    scene.archive()
    assert sum(rows) == 40
    # Ten rows of 6,200 bytes: three of them fit what the server gives at most.
    assert len(rows) >= 4


@pytest.mark.long
def test_a_row_that_fits_no_piece_is_read_by_the_plain_cursor(
    mysql_scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = mysql_scene
    scene.add(5)
    scene.update("content = REPEAT('가', 2000)", "log_id = 3")
    original = scene.state()
    monkeypatch.setattr(mysql, "LARGEST_PIECE", 5_000)
    assert scene.archive().rows_written == 5
    assert manifest_of(scene)["digest_algorithm"] == "xor64-sha256-v1"
    assert scene.archive().outcome == "unchanged"
    assert scene.purge().deleted == 5
    assert scene.restore().written == 5
    assert scene.state() == original


def test_rows_in_another_order_than_their_key_are_read_by_the_plain_cursor(
    mysql_scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = mysql_scene
    scene.add(9)
    original = mysql_pieces.csv_of

    def swapped(text: bytes) -> Iterator[Any]:
        rows = text.split(b"\xfd")[:-1]
        return original(b"".join(row + b"\xfd" for row in [rows[1], rows[0], *rows[2:]]))

    monkeypatch.setattr(mysql_pieces, "csv_of", swapped)
    scene.archive()
    assert manifest_of(scene)["digest_algorithm"] == "xor64-sha256-v1"
    assert manifest_of(scene)["first_key"] == ["1"]


@pytest.mark.long
def test_an_account_of_one_connection_archives_too(mysql_scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = mysql_scene
    scene.add(200)
    user = f"one_{uuid.uuid4().hex[:8]}"
    url = sa.make_url(scene.url)
    scene.run(
        f"CREATE USER {user}@'%' IDENTIFIED BY 'secret' WITH MAX_USER_CONNECTIONS 1",
        f"GRANT SELECT ON {url.database}.* TO {user}@'%'",
    )
    rows = pieces_read(monkeypatch)
    theirs = url.set(username=user, password="secret").render_as_string(hide_password=False)
    assert Scene(theirs, scene.folder).archive().rows_written == 200
    assert sum(rows) == 200
    scene.run(f"DROP USER {user}@'%'")


def test_pieces_that_lack_rows_of_the_day_count_for_nothing(
    mysql_scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time index counts the day's rows in the same snapshot; the plain cursor then reads them all."""
    scene = mysql_scene
    scene.add(200)
    monkeypatch.setattr(mysql_pieces, "PIECE_BYTES", 1_000)
    original = _DayInPieces._fetched

    def lacking(self: _DayInPieces) -> Iterator[Any]:
        yield from list(original(self))[:-1]

    monkeypatch.setattr(_DayInPieces, "_fetched", lacking)
    assert scene.archive().rows_written == 200
    assert manifest_of(scene)["digest_algorithm"] == "xor64-sha256-v1"


@pytest.mark.long
@pytest.mark.parametrize(("old", "new"), [(b'"7"', b'"8"'), (b'""', b""), (b"user", b"uses"), ("가".encode(), b"???")])
def test_a_file_that_differs_from_the_pieces_is_no_archive(
    mysql_scene: Scene, monkeypatch: pytest.MonkeyPatch, old: bytes, new: bytes
) -> None:
    scene = mysql_scene
    scene.add(9, content='가 "나"')
    original = mysql_pieces.csv_of
    monkeypatch.setattr(mysql_pieces, "csv_of", lambda text: iter([b"".join(original(text)).replace(old, new, 1)]))
    with pytest.raises(ProofFailed):
        scene.archive()
    assert scene.snapshot_of_files() == {}


def test_a_table_whose_key_is_not_a_number_is_read_by_the_plain_cursor(mysql_scene: Scene) -> None:
    scene = mysql_scene
    scene.run(f"ALTER TABLE {scene.name} MODIFY log_id varchar(40) NOT NULL")
    scene.add(20)
    assert scene.archive().rows_written == 20
    assert manifest_of(scene)["digest_algorithm"] == "xor64-sha256-v1"


@pytest.mark.long
def test_a_partitioned_table_is_read_in_pieces(mysql_scene: Scene) -> None:
    """Its primary key is log_id, then created_at."""
    scene = mysql_scene
    scene.run(f"ALTER TABLE {scene.name} DROP PRIMARY KEY, ADD PRIMARY KEY (log_id, created_at)")
    scene.add(200)
    original = scene.state()
    assert scene.archive().rows_written == 200
    assert manifest_of(scene)["digest_algorithm"] == "sha256-pieces-v1"
    assert scene.archive().outcome == "unchanged"
    assert scene.purge(chunk_size=30).deleted == 200
    assert scene.restore().written == 200
    assert scene.state() == original


ORDERS = {
    "descending": "DROP PRIMARY KEY, ADD PRIMARY KEY (log_id, tokens DESC)",
    "by an enum's number": "MODIFY role enum('user', 'assistant'), DROP PRIMARY KEY, ADD PRIMARY KEY (log_id, role)",
    "by partition": "DROP PRIMARY KEY, ADD PRIMARY KEY (log_id, tokens) PARTITION BY HASH (tokens) PARTITIONS 3",
    "by range of another": "DROP PRIMARY KEY, ADD PRIMARY KEY (log_id, tokens, created_at)"
    " PARTITION BY RANGE (UNIX_TIMESTAMP(created_at))"
    " (PARTITION a VALUES LESS THAN (UNIX_TIMESTAMP('2026-10-01 00:00:00')), PARTITION b VALUES LESS THAN MAXVALUE)",
}


@pytest.mark.long
@pytest.mark.parametrize("order", list(ORDERS))
def test_a_day_comes_back_whatever_order_its_key_has_beyond_the_first_column(mysql_scene: Scene, order: str) -> None:
    """A purge and a restore go by ranges of the whole key, from the first row of the file to the last."""
    scene = mysql_scene
    scene.run(f"ALTER TABLE {scene.name} MODIFY log_id bigint NOT NULL, MODIFY created_at timestamp NOT NULL")
    scene.run(f"ALTER TABLE {scene.name} {ORDERS[order]}")
    times = {1: "2026-10-01 01:00:00", 2: "2026-09-30 20:00:00", 3: "2026-10-01 02:00:00"}
    rows = [
        {"log_id": key, "role": role, "content": "안녕", "tokens": tokens, "created_at": time}
        for key in range(1, 4)
        for (tokens, time), role in zip(times.items(), ("user", "assistant", "user"), strict=True)
        if (role, tokens) != ("user", 3) or "role" not in ORDERS[order]
    ]
    scene.insert(rows)
    original = scene.state()
    scene.archive()
    assert scene.archive().outcome == "unchanged"
    assert scene.purge(chunk_size=2).deleted == len(rows)
    assert scene.restore().written == len(rows)
    assert scene.state() == original


def test_archived_days_leave_no_memory_behind(mysql_scene: Scene) -> None:
    """A buffer of 0.7 MB stayed for each. Counted in a pool of its own: of the process's, other tests give some back
    meanwhile (640 bytes were seen)."""
    import pyarrow as pa

    mysql_scene.add(9)
    mysql_scene.archive()
    usual, own = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(own)
    try:
        for _ in range(3):
            shutil.rmtree(mysql_scene.folder)
            mysql_scene.archive()
        assert own.max_memory() > 0, "nothing was counted"
        assert own.bytes_allocated() == 0
    finally:
        pa.set_memory_pool(usual)


def test_copy_and_the_plain_cursor_give_the_same_bytes(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from saju_ops.rows.engines.postgres.store import PostgresRowStore

    scene = Scene(postgres_url, tmp_path / "backups").create_table()
    scene.run(f"ALTER TABLE {scene.name} ADD f float8, ADD b bytea, ADD n numeric, ADD ok bool, ADD j jsonb")
    scene.add(9, content='한글 "🙂"\r\n\\.')
    scene.update("f = 0.1, b = '\\x00ff0a', n = 'NaN', ok = true, j = '{}'", "log_id > 1")
    scene.archive()
    copied = scene.data_file().read_bytes()
    shutil.rmtree(scene.folder)
    monkeypatch.setattr(PostgresRowStore, "fast_csv", lambda *_: None)
    scene.archive()
    assert scene.data_file().read_bytes() == copied


@pytest.fixture(scope="module")
def servers_in_two_zones() -> Iterator[tuple[MySQL, MySQL]]:
    with (
        MySQL(["--default-time-zone=+09:00", "--sql-mode=ANSI_QUOTES,PAD_CHAR_TO_FULL_LENGTH"]) as seoul,
        MySQL(["--default-time-zone=+00:00"]) as utc,
    ):
        yield seoul, utc


@pytest.mark.long
def test_a_server_in_seoul_and_one_in_utc_give_the_same_file(
    servers_in_two_zones: tuple[MySQL, MySQL], tmp_path: Path
) -> None:
    files = []
    for number, server in enumerate(servers_in_two_zones):
        server.create_database("service")
        scene = Scene(server.database_url("service"), tmp_path / str(number))
        scene.run(TABLES["mysql"].format(name=scene.name).replace("varchar(10)", "char(10)"))
        scene.add(50)
        scene.insert([{"log_id": 900, "created_at": scene.time(DAY.end - timedelta(microseconds=1))}])
        assert scene.archive().rows == 51
        files.append(scene.data_file().read_bytes())
        assert scene.purge().deleted == 51
        server.drop_database("service")
    assert files[0] == files[1]


@pytest.mark.parametrize("engine", ["mysql", "mariadb", "postgres", "sqlite"])
def test_columns_without_a_zone_are_read_in_the_zone_of_the_database(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    scene = Scene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups", zone=SEOUL)
    kind = {"mysql": "datetime", "postgresql": "timestamp", "sqlite": "text"}[scene.family]
    scene.run(f"CREATE TABLE {scene.name} (log_id int PRIMARY KEY, created_at {kind} NOT NULL)")
    times = ["2026-09-30 23:59:59", "2026-10-01 00:00:00", "2026-10-01 23:59:59", "2026-10-02 00:00:00"]
    written = [datetime.fromisoformat(t) if engine == "postgres" else t for t in times]
    scene.insert([{"log_id": i, "created_at": t} for i, t in enumerate(written)])
    assert scene.archive().rows == 2
    assert scene.purge().deleted == 2
    assert scene.ids() == [0, 3]


@pytest.mark.long
def test_a_row_of_the_last_microsecond_belongs_to_its_own_day(scene: Scene) -> None:
    times = [DAY.start, DAY.end - timedelta(microseconds=1), DAY.end, DAY.start - timedelta(microseconds=1)]
    scene.insert([{"log_id": i, "created_at": scene.time(t)} for i, t in enumerate(times, 1)])
    assert scene.archive().rows == 2
    assert scene.archive(NEXT_DAY).rows == 1


# --- a day again ------------------------------------------------------------------------------------------


def test_an_unchanged_day_is_left_alone(scene: Scene) -> None:
    scene.add(20)
    scene.archive()
    files = scene.snapshot_of_files()
    result = scene.archive()
    assert (result.outcome, result.rows, result.rows_written) == ("unchanged", 20, 0)
    assert scene.snapshot_of_files() == files


@pytest.mark.long
def test_late_and_changed_rows_go_to_part_two_and_then_to_part_three(scene: Scene) -> None:
    scene.add(20)
    scene.archive()
    files = scene.snapshot_of_files()
    scene.add(2, first=100)
    scene.update("tokens = 7", "log_id IN (3, 4)")
    assert scene.archive().rows_written == 4
    scene.update("tokens = 8", "log_id = 4")
    assert scene.archive().rows_written == 1
    assert scene.archive().outcome == "unchanged"
    assert scene.parts() == [20, 4, 1]
    assert files.items() <= scene.snapshot_of_files().items()


@pytest.mark.long
def test_a_row_changed_and_changed_back_is_archived_each_time(scene: Scene) -> None:
    scene.add(5)
    original = scene.state()
    scene.archive()
    scene.update("tokens = 99", "log_id = 2")
    scene.archive()
    scene.update("tokens = 1", "log_id = 2")
    scene.archive()
    assert scene.parts() == [5, 1, 1]
    assert scene.purge().deleted == 5
    assert scene.restore().written == 5
    assert scene.state() == original


def test_a_purged_day_keeps_its_archive_and_says_so(scene: Scene) -> None:
    scene.add(5)
    scene.archive()
    files = scene.snapshot_of_files()
    scene.purge()
    result = scene.archive()
    assert (result.outcome, result.rows) == ("purged", 5)
    assert "purged" in result.message
    assert scene.snapshot_of_files() == files


@pytest.mark.long
def test_a_partly_purged_day_keeps_its_archive(scene: Scene) -> None:
    scene.add(10)
    scene.archive()
    files = scene.snapshot_of_files()
    scene.purge(max_rows=4)
    result = scene.archive()
    assert (result.outcome, result.rows) == ("unchanged", 10)
    assert scene.snapshot_of_files() == files


# --- what a killed run left -------------------------------------------------------------------------------


def test_a_data_file_without_a_manifest_is_adopted_where_it_equals_the_database(scene: Scene) -> None:
    scene.add(10)
    scene.archive()
    manifest = scene.manifest_file()
    before = json.loads(manifest.read_text())
    manifest.unlink()
    assert scene.archive().outcome == "archived"
    after = json.loads(manifest.read_text())
    assert after["stored_sha256"] == before["stored_sha256"]
    assert scene.parts() == [10]
    assert scene.purge().deleted == 10


@pytest.mark.long
@pytest.mark.parametrize("late", [0, 1], ids=["a row changed", "a row came"])
def test_a_data_file_without_a_manifest_that_differs_is_left_alone(scene: Scene, late: int) -> None:
    scene.add(10)
    scene.archive()
    stray = scene.data_file()
    scene.manifest_file().unlink()
    kept = stray.read_bytes()
    scene.add(late, first=50) if late else scene.update("content = '바뀜'", "log_id = 3")
    result = scene.archive()
    assert result.outcome == "archived"
    assert stray.read_bytes() == kept
    assert [p.part for p in scene.files().parts] == [2]
    assert scene.parts() == [10 + late]
    assert result.strays


@pytest.mark.long
def test_a_cell_that_changes_on_its_way_into_the_file_is_found(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it is changed: the rows read back must be those of the database itself."""
    scene.add(10)
    store, true, false = CsvSink._store, "안녕".encode(), "안뇽".encode()
    with monkeypatch.context() as patch:
        patch.setattr(CsvSink, "_store", lambda sink, data: store(sink, bytes(data).replace(true, false, 1)))
        with pytest.raises(ProofFailed, match="the file read back holds 10 rows with digest"):
            scene.archive()
    assert scene.snapshot_of_files() == {}
    assert scene.archive().rows_written == 10


def test_a_data_file_cut_short_without_a_manifest_is_left_alone(scene: Scene) -> None:
    scene.add(10)
    scene.archive()
    stray = scene.data_file()
    scene.manifest_file().unlink()
    stray.write_bytes(stray.read_bytes()[:-20])
    kept = stray.read_bytes()
    assert scene.archive().outcome == "archived"
    assert stray.read_bytes() == kept
    assert scene.parts() == [10]


def test_unfinished_files_of_the_same_day_are_cleared(scene: Scene) -> None:
    scene.add(1)
    scene.archive()
    leftover = scene.data_file().with_name(".conversation_log_backup_20261001.csv.0f.unfinished")
    leftover.write_bytes(b"half")
    scene.archive()
    assert not leftover.exists()


# --- what is refused --------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("damage", ["cut", "flip", "gone", "manifest"])
def test_a_damaged_archive_is_noticed_and_nothing_is_written(scene: Scene, damage: str) -> None:
    scene.add(10)
    scene.archive()
    data, manifest = scene.data_file(), scene.manifest_file()
    content = bytearray(data.read_bytes())
    match damage:
        case "cut":
            data.write_bytes(content[:-15])
        case "flip":
            content[len(content) // 2] ^= 1
            data.write_bytes(content)
        case "gone":
            data.unlink()
        case "manifest":
            manifest.write_text(manifest.read_text()[:100])
    before = scene.snapshot_of_files()
    scene.add(1, first=50)
    with pytest.raises(ProofFailed):
        scene.archive()
    assert scene.snapshot_of_files() == before


@pytest.mark.long
@pytest.mark.parametrize("field", ["table", "database"])
def test_an_archive_of_another_table_or_database_is_refused(scene: Scene, field: str) -> None:
    scene.add(5)
    scene.archive()
    path = scene.manifest_file()
    path.write_text(json.dumps({**json.loads(path.read_text()), field: "another"}))
    with pytest.raises(Refused, match="another"):
        scene.archive()
    assert scene.purge().deleted == 0
    assert scene.count() == 5


@pytest.mark.long
def test_an_archive_of_another_day_under_this_days_name_is_refused(scene: Scene) -> None:
    scene.add(5)
    scene.archive()
    path = scene.manifest_file()
    path.write_text(json.dumps({**json.loads(path.read_text()), "day": "2026-10-02"}))
    with pytest.raises(OperatorError, match="2026-10-02"):
        scene.archive()
    assert scene.purge().deleted == 0


@pytest.mark.long
def test_a_second_archive_of_the_same_day_steps_back(scene: Scene) -> None:
    scene.add(5)
    with scene.store() as store, store.lock(f"day {DAY}", 1):
        with pytest.raises(Busy, match=r"Another run works on day 2026-10-01.*Nothing was done"):
            scene.archive(wait=0.1)
        assert scene.archive(NEXT_DAY, wait=0.1).outcome == "nothing"
    assert scene.archive(wait=0.1).outcome == "archived"


@pytest.mark.long
def test_many_archives_of_a_day_at_once_write_it_once(scene: Scene) -> None:
    scene.add(300)
    outcomes: list[str] = []

    def work() -> None:
        try:
            outcomes.append(scene.archive(wait=20).outcome)
        except Exception as error:  # shown by the assertion
            outcomes.append(repr(error))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["archived", "unchanged", "unchanged", "unchanged"]
    assert scene.parts() == [300]


def test_a_lock_is_held_by_one_alone_through_many_changes_of_hands(sqlite_url: str, tmp_path: Path) -> None:
    scene = Scene(sqlite_url, tmp_path / "backups").create_table()
    inside, overlaps = [], []

    def work() -> None:
        with scene.store() as store:
            for _ in range(40):
                try:
                    with store.lock("day x", 0):
                        inside.append(1)
                        overlaps.append(len(inside))
                        inside.pop()
                except Busy:
                    continue

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(overlaps) == {1}
    assert not list(tmp_path.glob(".*.lock"))


def test_a_table_without_a_key_is_refused_with_the_reason(database_url: str, tmp_path: Path) -> None:
    scene = Scene(database_url, tmp_path / "backups")
    scene.run(f"CREATE TABLE {scene.name} (log_id int, created_at timestamp NULL)")
    with pytest.raises(Refused, match="no primary key"):
        scene.archive()


def test_a_table_without_created_at_is_refused(database_url: str, tmp_path: Path) -> None:
    scene = Scene(database_url, tmp_path / "backups")
    scene.run(f"CREATE TABLE {scene.name} (log_id int PRIMARY KEY)")
    with pytest.raises(Refused, match="created_at"):
        scene.archive()


def test_a_missing_table_is_refused_by_its_setting(database_url: str, tmp_path: Path) -> None:
    Scene(database_url, tmp_path / "backups", "another").create_table()
    with pytest.raises(Refused, match="CONVERSATION_LOG_TABLE"):
        Scene(database_url, tmp_path / "backups").archive()


# --- a table that was altered -----------------------------------------------------------------------------

ALTERATIONS = {
    "added": "ADD COLUMN mood varchar(20)",
    "dropped": "DROP COLUMN tokens",
    "renamed": "RENAME COLUMN tokens TO used",
}


@pytest.mark.long
@pytest.mark.parametrize("alteration", list(ALTERATIONS))
def test_an_altered_table_is_archived_anew_and_purged_only_by_the_new_part(scene: Scene, alteration: str) -> None:
    scene.add(6)
    scene.archive()
    scene.run(f"ALTER TABLE {scene.name} {ALTERATIONS[alteration]}")
    original = scene.state()
    kept = scene.purge()
    assert (kept.deleted, kept.kept_changed) == (0, 6)
    assert scene.count() == 6
    assert scene.archive().rows_written == 6
    assert scene.archive().outcome == "unchanged"
    assert scene.purge().deleted == 6
    if alteration == "added":
        scene.restore()
        assert scene.state() == original


# --- privacy ----------------------------------------------------------------------------------------------


def test_a_row_that_cannot_be_read_is_not_quoted(sqlite_url: str, tmp_path: Path) -> None:
    """pyarrow's own message would."""
    scene = Scene(sqlite_url, tmp_path / "backups").create_table()
    scene.add(3, content=SECRET)
    scene.archive()
    file = scene.data_file()
    file.write_bytes(file.read_bytes().replace(b'"user",', b"", 1))
    with pytest.raises(ProofFailed, match="it can't be read as a whole CSV file") as caught:
        scene.archive()
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.long
def test_no_message_text_leaves_the_file(
    scene: Scene, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    scene.add(20, content=SECRET)
    reprs = [scene.archive(), scene.purge(dry_run=True)]
    scene.update("tokens = 5", "log_id = 2")
    reprs += [scene.archive(), scene.archive(), scene.purge(max_rows=5), scene.restore(dry_run=True)]
    scene.update("tokens = 6", "log_id > 15")
    with pytest.raises(Refused) as refused:
        scene.restore()
    data = scene.data_file()
    data.write_bytes(data.read_bytes().replace("내용".encode(), b'"'))
    with pytest.raises(ProofFailed) as damaged:
        scene.archive()
    printed = capfd.readouterr()
    for shown in (*map(repr, reprs), str(refused.value), str(damaged.value), caplog.text, *printed):
        assert "secret-4711" not in shown
    manifest = scene.manifest_file().read_text()
    assert "secret-4711" not in manifest


# --- live writers -----------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("engine", ["mysql", "mariadb", "postgres", "sqlite"])
def test_rows_written_during_the_archive_are_in_a_part_or_still_to_come(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    scene = Scene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups").create_table()
    scene.add(3000)
    stop = threading.Event()

    def write() -> None:
        number = 10_000
        while not stop.is_set():
            scene.add(1, first=number)
            scene.update("tokens = tokens + 1", f"log_id = {number % 3000 + 1}")
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(4):
            assert scene.archive().outcome in ("archived", "unchanged")
    finally:
        stop.set()
        writer.join()
    scene.archive()
    original = scene.state()
    assert scene.archive().outcome == "unchanged"
    assert scene.purge().deleted == len(original)
    scene.restore()
    assert scene.state() == original


# --- odd catalogues ---------------------------------------------------------------------------------------


def test_an_index_that_the_server_may_not_use_does_not_stop_the_archive(mysql_scene: Scene) -> None:
    scene = mysql_scene
    with scene.store() as store:
        word = "IGNORED" if store.table.engine == "mariadb" else "INVISIBLE"
    scene.run(f"ALTER TABLE {scene.name} ALTER INDEX ix_created {word}")
    scene.add(5)
    assert scene.archive().rows == 5


def test_dates_that_no_calendar_has_are_archived_with_their_neighbours(mysql_url: str, tmp_path: Path) -> None:
    scene = Scene(mysql_url, tmp_path / "backups")
    scene.run(f"CREATE TABLE {scene.name} (log_id int PRIMARY KEY, created_at datetime NOT NULL, KEY (created_at))")
    times = ["0000-00-00 00:00:00", "2026-02-31 10:00:00", "2026-10-00 05:00:00", "2026-10-01 05:00:00"]
    scene.insert([{"log_id": i, "created_at": t} for i, t in enumerate(times)])
    with scene.store() as store:
        found = [str(d) for d in due_days(store, parse_day("2026-01-01", SEOUL), parse_day("2026-11-01", SEOUL))]
    assert found == ["2026-03-01", "2026-10-01"]
    for day in found:
        scene.archive(parse_day(day, SEOUL))
    assert scene.purge().deleted == 3
    assert scene.ids() == [0]


def test_sqlite_times_written_in_many_ways_fall_on_their_days(sqlite_url: str, tmp_path: Path) -> None:
    scene = Scene(sqlite_url, tmp_path / "backups").create_table()
    inside = [
        "2026-09-30 15:00:00", "2026-09-30T15:00:00", "2026-09-30T15:00:00Z", "2026-10-01T00:00:00+09:00",
        "2026-10-01 23:59:59.999999+09:00", "2026-10-01 14:59:59.9999", "2026-10-01T14:59",
    ]  # fmt: skip
    outside = ["2026-09-30 14:59:59.999999", "2026-10-01T15:00:00", "2026-10-02T00:00:00+09:00", "nonsense", ""]
    scene.insert([{"log_id": i, "created_at": t} for i, t in enumerate([*inside, *outside])])
    assert scene.archive().rows == len(inside)
    assert scene.purge().deleted == len(inside)
    assert scene.count() == len(outside)


def test_sqlite_times_with_and_without_an_offset_fall_on_their_days_whatever_the_zone_of_the_database(
    sqlite_url: str, tmp_path: Path
) -> None:
    scene = Scene(sqlite_url, tmp_path / "backups", zone=SEOUL).create_table()
    times = ["2026-10-01 00:00:00", "2026-10-01T00:30:00+09:00", "2026-09-30 15:00:00.5Z", "2026-10-01 23:59:59"]
    times += ["2026-10-01T14:59:59z", "2026-10-01 15:00:00Z", "2026-09-30 23:59:59"]
    scene.insert([{"log_id": n, "created_at": text} for n, text in enumerate(times, 1)])
    with scene.store() as store:
        assert store.instants("asc") == parse_day("2026-10-01", SEOUL).start - timedelta(seconds=1)
        assert store.first_instant_from(DAY.start) == DAY.start
        assert [str(d) for d in due_days(store, parse_day("2026-09-01", SEOUL), parse_day("2026-11-01", SEOUL))] == [
            "2026-09-30", "2026-10-01", "2026-10-02"
        ]  # fmt: skip
    assert scene.archive().rows == 5
    assert scene.purge(to_day=DAY).deleted == 5
    assert scene.ids() == [6, 7]
    assert scene.restore().written == 5


@pytest.mark.parametrize("value", ["1790000000", "1790000000.5", "x'31'"])
def test_a_sqlite_table_whose_times_are_no_texts_is_refused(sqlite_url: str, tmp_path: Path, value: str) -> None:
    scene = Scene(sqlite_url, tmp_path / "backups").create_table()
    scene.run(f"INSERT INTO conversation_logs (log_id, created_at) VALUES (1, {value})")  # noqa: S608
    with pytest.raises(Refused, match=r"created_at is of the type (integer|real|blob); a text is needed"):
        scene.archive()


def test_a_cell_of_a_new_type_in_sqlite_is_archived_as_it_is(sqlite_url: str, tmp_path: Path) -> None:
    scene = Scene(sqlite_url, tmp_path / "backups")
    scene.run(f"CREATE TABLE {scene.name} (log_id integer PRIMARY KEY, x, created_at text)")
    scene.insert([{"log_id": i, "x": i, "created_at": "2026-10-01 00:00:00"} for i in range(5)])
    scene.archive()
    scene.update("x = '3'", "log_id = 3")
    scene.insert([{"log_id": 9, "x": b"9", "created_at": "2026-10-01 00:00:00"}])
    original = scene.state()
    assert scene.purge(dry_run=True).deletable == 4
    scene.archive()
    assert scene.archive().outcome == "unchanged"
    assert scene.purge().deleted == 6
    scene.restore()
    assert scene.state() == original


def test_a_store_that_cannot_be_opened_leaves_no_connection(mysql_url: str) -> None:
    with pytest.raises(Refused):
        open_log_store(mysql_url, "missing", UTC_ZONE)
    engine = sa.create_engine(mysql_url)
    with closing(engine.raw_connection()) as raw, raw.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM information_schema.processlist WHERE db = DATABASE()")
        assert cursor.fetchone() == (1,)
    engine.dispose()
