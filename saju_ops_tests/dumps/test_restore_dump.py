"""A restore says first what it does, proves the dump before it touches anything, and refuses what was not requested."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from saju_ops.cli.main import main
from saju_ops.database.connect import connect, redacted
from saju_ops.dumps import restore as dump_restore
from saju_ops.dumps.open import open_engine
from saju_ops.dumps.restore import RestoreRequest, find_dump
from saju_ops.dumps.sqlite import SQLiteDumps
from saju_ops.dumps.take import take_dump
from saju_ops.errors import OperatorError, ProofFailed, Refused
from saju_ops.storage.manifest import Held, backups
from saju_ops.times import instant_of
from saju_ops_tests.dumps.scene import AT_THREE, SEOUL, Dumps, everything, fill, options
from saju_ops_tests.engines import Engine


def change(url: str) -> None:
    with connect(url).connect() as connection:
        connection.exec_driver_sql("DELETE FROM no_key")
        connection.exec_driver_sql("CREATE TABLE added_later (id int)")
        connection.commit()


@pytest.mark.long
@pytest.mark.parametrize("engine", ["mariadb", "postgres", "sqlite"])
def test_replacing_puts_the_old_state_back_whole(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url = request.getfixturevalue(f"{engine}_url")
    fill(url)
    dumps = Dumps(url, tmp_path)
    dumps.take()
    before = everything(url)
    change(url)
    changed = everything(url)
    name = "test" if engine == "sqlite" else sa.make_url(url).database
    with pytest.raises(Refused, match=rf"is not empty .* --replace {name}"):
        dumps.restore()
    with pytest.raises(Refused, match="not 'another'"):
        dumps.restore(replace="another")
    assert everything(url) == changed
    dry = dumps.restore(dry_run=True, replace=name)
    assert everything(url) == changed
    kept = "the file is kept beside it" if engine == "sqlite" else "are dropped first"
    assert any(f"NOT EMPTY: with --replace {name}" in s and kept in s for s in dry.sentences())
    dumps.restore(replace=name)
    assert everything(url) == before
    if engine == "sqlite":
        (aside,) = Path(sa.make_url(url).database or "").parent.glob("test.db.before_restore_*")
        assert everything(f"sqlite:///{aside}") == changed


@pytest.mark.long
@pytest.mark.parametrize("engine", ["mariadb", "postgres", "sqlite"])
def test_a_damaged_dump_is_found_before_anything_is_dropped(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = request.getfixturevalue(f"{engine}_url")
    fill(url)
    dumps = Dumps(url, tmp_path)
    file = dumps.folder / dumps.take().manifest.file
    whole = file.read_bytes()
    before = everything(url)
    name = "test" if engine == "sqlite" else sa.make_url(url).database
    for bad in (whole[:-1], whole[:-200], whole + b"x", whole[:100] + b"?" + whole[101:]):
        file.write_bytes(bad)
        with pytest.raises(ProofFailed):
            dumps.restore(replace=name)
        assert everything(url) == before


def test_a_target_that_differs_from_the_dump_is_reported(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(sqlite_url)
    dumps = Dumps(sqlite_url, tmp_path)
    dumps.take()
    load, target = SQLiteDumps.load, f"sqlite:///{tmp_path / 'target.db'}"

    def lossy(self: SQLiteDumps, *args: Any, **more: Any) -> list[str]:
        notes = load(self, *args, **more)
        with sa.create_engine(target).begin() as connection:
            connection.exec_driver_sql("DELETE FROM no_key")
        return notes

    monkeypatch.setattr(SQLiteDumps, "load", lossy)
    with pytest.raises(ProofFailed, match=r"was restored, and differs .*: table no_key has 0 rows, 3 are right"):
        dumps.restore(target)


def test_of_two_databases_of_one_name_neither_is_guessed(tmp_path: Path) -> None:
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        url = f"sqlite:///{tmp_path / folder / 'app.db'}"
        fill(url)
        dumps = Dumps(url, tmp_path)
        dumps.take()
    with pytest.raises(Refused, match=r"Several databases have that name: .*one/app\.db, .*other/app\.db"):
        dumps.restore(f"sqlite:///{tmp_path / 'target.db'}", database="app")
    assert not (tmp_path / "target.db").exists()


def test_the_newest_dump_until_a_time_is_taken(sqlite_url: str, tmp_path: Path) -> None:
    fill(sqlite_url)
    dumps = Dumps(sqlite_url, tmp_path)
    files = []
    for day in range(3):
        moment = AT_THREE + timedelta(days=day)
        result = take_dump(dumps.url, dumps.storage, options(), now=lambda moment=moment: moment)  # type: ignore[misc]
        files.append(result.manifest.file)
    target = f"sqlite:///{tmp_path / 'x.db'}"
    assert dumps.restore(target, dry_run=True).manifest.file == files[2]
    at = AT_THREE + timedelta(days=1)
    assert dumps.restore(target, dry_run=True, at=at).manifest.file == files[1]
    assert dumps.restore(target, dry_run=True, at=at - timedelta(seconds=1)).manifest.file == files[0]
    with pytest.raises(Refused, match="The oldest dump of test was taken at 2026-09-30 18:00:00 UTC"):
        dumps.restore(target, dry_run=True, at=AT_THREE - timedelta(seconds=1))
    with pytest.raises(Refused, match=r"no dump of nothing .* there are dumps of: test"):
        dumps.restore(target, dry_run=True, database="nothing")


@pytest.mark.long
def test_the_newest_dump_is_taken_whichever_user_took_it_and_whoever_restores(
    postgres_server: Engine, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = sa.make_url(postgres_url)
    postgres_server.execute("CREATE ROLE dumper SUPERUSER LOGIN PASSWORD 'dumper'")
    try:
        other = mine.set(username="dumper", password="dumper").render_as_string(hide_password=False)
        for url in (other, postgres_url):
            Dumps(url, tmp_path).take()
        newest = Dumps(postgres_url, tmp_path)
        (_, file) = sorted(n for n in newest.names() if n.endswith(".sql.gz"))
        for user in ("dumper", mine.username, "administrator"):
            found = find_dump(newest.storage, RestoreRequest(), mine.set(username=user))
            assert found.file == file
        # A database of the same name on another server is another one.
        moved = [*backups(newest.storage, "database_dump")]
        moved[0] = replace(moved[0], source=redacted(mine.set(host="elsewhere")))
        monkeypatch.setattr(dump_restore, "held", lambda *_: Held(moved, {}, []))
        with pytest.raises(Refused, match="set DATABASE_URL to the address of the one"):
            find_dump(newest.storage, RestoreRequest(database=mine.database), mine)
        assert find_dump(newest.storage, RestoreRequest(), mine).file == file
    finally:
        postgres_server.execute("DROP OWNED BY dumper", "DROP ROLE dumper")


def test_a_damaged_dump_names_the_one_before_also_in_a_dry_run(sqlite_url: str, tmp_path: Path) -> None:
    fill(sqlite_url)
    dumps = Dumps(sqlite_url, tmp_path)
    files = []
    for day in range(2):
        moment = AT_THREE + timedelta(days=day, microseconds=7)
        result = take_dump(dumps.url, dumps.storage, options(), now=lambda moment=moment: moment)  # type: ignore[misc]
        files.append(dumps.folder / result.manifest.file)
    files[1].write_bytes(files[1].read_bytes()[:-1])
    target = f"sqlite:///{tmp_path / 'x.db'}"
    for dry_run in (True, False):
        with pytest.raises(ProofFailed, match=r'The one before is \S+: --at "2026-10-01 03:00:00"\. Nothing'):
            dumps.restore(target, dry_run=dry_run, zone=SEOUL)
    named = instant_of("2026-10-01 03:00:00", SEOUL, "--at")
    assert dumps.restore(target, at=named, zone=SEOUL).manifest.file.endswith(files[0].name)
    files[0].write_bytes(b"")
    with pytest.raises(ProofFailed, match="no older one that is proven"):
        dumps.restore(f"sqlite:///{tmp_path / 'y.db'}", at=named)


@pytest.mark.parametrize("lost", ["manifest", "a bit of the manifest", "data", "proof"])
def test_a_newer_file_that_is_no_backup_is_named(sqlite_url: str, tmp_path: Path, lost: str) -> None:
    fill(sqlite_url)
    dumps = Dumps(sqlite_url, tmp_path)
    older = dumps.take().manifest
    newer = take_dump(dumps.url, dumps.storage, options(), now=lambda: AT_THREE + timedelta(days=1)).manifest
    manifest = dumps.folder / newer.name
    if lost == "data":
        (dumps.folder / newer.file).unlink()
    elif lost == "manifest":
        manifest.unlink()
    else:
        text = manifest.read_text()
        manifest.write_text(text[:-20] if "bit" in lost else json.dumps({**json.loads(text), "proven": False}))
    target = f"sqlite:///{tmp_path / 'x.db'}"
    result = dumps.restore(target, dry_run=True)
    assert result.manifest == older
    (sentence,) = (s for s in result.sentences() if s.startswith("NEWER, and can't be restored: "))
    assert Path(newer.file).name.partition(".")[0] in sentence
    assert dumps.restore(target, dry_run=True, at=AT_THREE).passed_over == []


def test_a_dump_without_manifest_is_no_dump(sqlite_url: str, tmp_path: Path) -> None:
    fill(sqlite_url)
    dumps = Dumps(sqlite_url, tmp_path)
    result = dumps.take()
    (dumps.folder / result.manifest.name).unlink()
    with pytest.raises(Refused, match="There is no dump"):
        dumps.restore(dry_run=True)


def test_an_unproven_dump_is_restored_only_when_asked(sqlite_url: str, tmp_path: Path) -> None:
    fill(sqlite_url)
    dumps = Dumps(sqlite_url, tmp_path)
    path = dumps.folder / dumps.take().manifest.name
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({**raw, "proven": False}))
    target = f"sqlite:///{tmp_path / 'x.db'}"
    with pytest.raises(Refused, match="none was ever proven"):
        dumps.restore(target)
    assert any("NEVER PROVEN" in s for s in dumps.restore(target, unproven=True).sentences())
    assert everything(target) == everything(sqlite_url)


@pytest.mark.long
@pytest.mark.parametrize(
    ("engine", "like"),
    [
        ("mysql", "CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci"),
        ("mariadb", "CHARACTER SET euckr COLLATE euckr_bin"),
        ("postgres", "TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"),
    ],
)
def test_a_database_that_is_made_gets_the_sort_order_that_it_had(
    engine: str, like: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    server: Engine = request.getfixturevalue(f"{engine}_server")
    named = [f"{kind}_{tmp_path.name}"[:60].lower() for kind in ("source", "made", "there")]
    source, made, there = [server.database_url(name) for name in named]
    server.execute(f"CREATE DATABASE {named[0]} {like}", f"CREATE DATABASE {named[2]}")
    try:
        with sa.create_engine(source, isolation_level="AUTOCOMMIT").connect() as connection:
            connection.exec_driver_sql("CREATE TABLE t (name varchar(9))")
        dumps = Dumps(source, tmp_path)
        dumps.take()
        assert dumps.restore(made).left_out == []
        assert open_engine(sa.make_url(made)).defaults() == open_engine(sa.make_url(source)).defaults()
        (note,) = dumps.restore(there).left_out
        assert "sort order" in note
        assert f"the dumped one's were {', '.join(open_engine(sa.make_url(source)).defaults().values())}." in note
    finally:
        for name in named:
            server.execute(f"DROP DATABASE IF EXISTS {name}{' WITH (FORCE)' if engine == 'postgres' else ''}")


def test_a_ruined_sqlite_file_is_put_aside_with_its_log_and_replaced(sqlite_url: str, tmp_path: Path) -> None:
    fill(sqlite_url)
    before = everything(sqlite_url)
    dumps = Dumps(sqlite_url, tmp_path)
    dumps.take()
    file = tmp_path / "test.db"
    whole = file.read_bytes()
    for ruined in (b"\0" * len(whole), whole[:100] + b"\xff" * (len(whole) - 100), b"gone wrong" * 99):
        file.write_bytes(ruined)
        (tmp_path / "test.db-wal").write_bytes(b"rows that somebody may save")
        with pytest.raises(Refused, match="is not empty"):
            dumps.restore()
        (note,) = dumps.restore(replace="test").left_out
        assert everything(sqlite_url) == before
        (kept,) = (p for p in tmp_path.glob("test.db.before_restore_*") if note.endswith(str(p)))
        assert kept.read_bytes() == ruined
        # In a file whose header it knows, SQLite itself throws away a log that isn't one.
        if not ruined.startswith(b"SQLite format 3"):
            assert Path(f"{kept}-wal").read_bytes() == b"rows that somebody may save"
        for path in tmp_path.glob("test.db.before_restore_*"):
            path.unlink()


@pytest.mark.parametrize("zone", ["Asia/Seoul", "America/New_York"])
def test_the_file_put_aside_bears_the_time_of_the_settings_zone(
    sqlite_url: str, tmp_path: Path, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(sqlite_url)
    dumps = Dumps(sqlite_url, tmp_path)
    dumps.take()
    for name, value in {"DATABASE_URL": sqlite_url, "BACKUP_URI": str(dumps.folder), "TIMEZONE": zone}.items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(main, ["restore-dump", "--replace", "test"])
    assert done.exit_code == 0, done.output
    (aside,) = tmp_path.glob("test.db.before_restore_*")
    stamped = datetime.strptime(aside.name[-15:], "%Y%m%d_%H%M%S").replace(tzinfo=ZoneInfo(zone))
    assert abs(datetime.now(UTC) - stamped) < timedelta(minutes=5)


@pytest.mark.parametrize("place", ["missing", "full"])
def test_a_sqlite_file_that_cannot_be_written_is_said(
    sqlite_url: str, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(sqlite_url)
    dumps = Dumps(sqlite_url, tmp_path)
    dumps.take()
    (tmp_path / "full").mkdir()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    if place == "full":
        monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OperatorError, match=r"x\.db can't be written \((No space left|No such file)"):
        dumps.restore(f"sqlite:///{tmp_path / place / 'x.db'}")
    assert not any((tmp_path / "full").iterdir())


def test_a_sqlite_file_inside_the_store_is_no_target(sqlite_url: str, tmp_path: Path) -> None:
    fill(sqlite_url)
    dumps = Dumps(sqlite_url, tmp_path / "dumps")
    dumps.take()
    root = Path(dumps.storage.location("x")).parent
    (tmp_path / "link").symlink_to(root)
    for place in (root / "restored.db", tmp_path / "link" / "database" / "restored.db"):
        with pytest.raises(Refused, match="is inside the store"):
            dumps.restore(into=f"sqlite:///{place}")
        assert not place.exists()


def test_a_dump_of_another_engine_is_refused(sqlite_url: str, postgres_url: str, tmp_path: Path) -> None:
    fill(sqlite_url)
    dumps = Dumps(sqlite_url, tmp_path)
    dumps.take()
    with pytest.raises(Refused, match="is a dump of sqlite and can't go into postgresql"):
        dumps.restore(postgres_url)


@pytest.mark.long
def test_a_restore_that_breaks_off_says_what_to_do(mariadb_url: str, mariadb_server: Engine, tmp_path: Path) -> None:
    fill(mariadb_url)
    dumps = Dumps(mariadb_url, tmp_path)
    dumps.take()
    with mariadb_server.database() as target:
        name = sa.make_url(target).database
        mariadb_server.execute(
            "CREATE OR REPLACE USER poor@'127.0.0.1' IDENTIFIED BY 'long enough'",
            f"GRANT SELECT, CREATE ON {name}.* TO poor@'127.0.0.1'",
        )
        poor = sa.make_url(target).set(username="poor", password="long enough").render_as_string(hide_password=False)
        try:
            with pytest.raises(OperatorError, match=rf"broke off: .*start again with --replace {name}"):
                dumps.restore(poor)
        finally:
            mariadb_server.execute("DROP USER poor@'127.0.0.1'")


def test_times_are_read_in_the_zone_of_the_settings() -> None:
    seoul = ZoneInfo("Asia/Seoul")
    assert instant_of("2026-10-01 03:00", seoul, "--at") == datetime(2026, 9, 30, 18, 0, 59, 999999, UTC)
    assert instant_of("2026-10-01 03:00:07", seoul, "--at") == datetime(2026, 9, 30, 18, 0, 7, 999999, UTC)
    assert instant_of("2026-10-01T03:00:00+00:00", seoul, "--at") == datetime(2026, 10, 1, 3, tzinfo=UTC)
    assert instant_of("2026-10-01", seoul, "--at") == datetime(2026, 10, 1, 14, 59, 59, 999999, UTC)
    assert instant_of(None, seoul, "--at") is None
    with pytest.raises(Refused, match="--at is 'gestern'; it may be a date"):
        instant_of("gestern", seoul, "--at")


@pytest.mark.long
def test_the_command_line_restores(
    postgres_url: str, postgres_server: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(postgres_url)
    dumps = Dumps(postgres_url, tmp_path)
    dumps.take()
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    monkeypatch.setenv("BACKUP_URI", str(dumps.folder))
    with postgres_server.database() as target:
        dry = CliRunner().invoke(main, ["restore-dump", "--into", target, "--dry-run"])
        assert dry.exit_code == 0, dry.output
        assert "It is empty." in dry.output
        assert "Nothing was touched" in dry.output
        assert everything(target) == {}
        done = CliRunner().invoke(main, ["restore-dump", "--into", target, "--at", "2026-10-01"])
        assert done.exit_code == 0, done.output
        assert "restored and compared with the manifest" in done.output
        assert everything(target) == everything(postgres_url)
        again = CliRunner().invoke(main, ["restore-dump", "--into", target])
        assert again.exit_code == 1
        assert "is not empty" in again.output
    password = str(sa.make_url(postgres_url).password)
    assert password not in dry.output + done.output + again.output
    wrong = CliRunner().invoke(main, ["restore-dump", "--into", "oracle://u:geheim@h/d"])
    assert wrong.exit_code == 1
    assert "--into can't be used" in wrong.output
    assert "geheim" not in wrong.output


@pytest.mark.long
def test_a_user_without_rights_over_roles_restores_all_but_owners(
    postgres_server: Engine, postgres_url: str, tmp_path: Path
) -> None:
    fill(postgres_url)
    with connect(postgres_url).connect() as connection:
        connection.exec_driver_sql("INSERT INTO no_key VALUES ('GRANT x;', 9)")
        connection.commit()
    dumps = Dumps(postgres_url, tmp_path)
    dumps.take()
    postgres_server.execute("CREATE ROLE modest LOGIN PASSWORD 'long enough'", "CREATE DATABASE modest_db OWNER modest")
    url = sa.make_url(postgres_url).set(username="modest", password="long enough", database="modest_db")
    target = url.render_as_string(hide_password=False)
    try:
        result = dumps.restore(target)
        assert everything(target) == everything(postgres_url)
        assert any("owners and grants were left out" in s for s in result.left_out)
    finally:
        postgres_server.execute("DROP DATABASE modest_db WITH (FORCE)", "DROP ROLE modest")
