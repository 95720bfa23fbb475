"""What `verify` finds in the stores, and the drills: restores of each kind, compared and thrown away."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import struct
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from saju_ops.archive.manifest import parse_manifest
from saju_ops.chroma.restore import choose
from saju_ops.chroma.snapshot import Source, take_snapshot
from saju_ops.cli.main import main
from saju_ops.database.connect import parse_database_url
from saju_ops.definitions import defs
from saju_ops.defs.resources import BackupStorage
from saju_ops.defs.upkeep.asset import CHECK, OPENS
from saju_ops.dumps.restore import RestoreRequest, find_dump, restore_dump
from saju_ops.dumps.take import DumpOptions, dump_databases
from saju_ops.errors import Refused
from saju_ops.reports.backups import verify_report
from saju_ops.rows.days import parse_day
from saju_ops.storage.local import LocalStorage
from saju_ops.storage.manifest import Kind, backups, read_manifest, write_manifest
from saju_ops.storage.open import StorageError
from saju_ops.storage.seal import Seals
from saju_ops.upkeep.drills import archive_drill, dump_drills, snapshot_drill, standard_drills
from saju_ops.upkeep.policy import Policy
from saju_ops.upkeep.prune import prune
from saju_ops.upkeep.verify import Drill, VerifyResult, verify
from saju_ops_tests.archive.scene import Scene
from saju_ops_tests.chroma.scene import make_folder
from saju_ops_tests.upkeep.test_retention import Two

pytestmark = pytest.mark.usefixtures("own_scratch")
KST = ZoneInfo("Asia/Seoul")
NOW = datetime(2026, 11, 21, 20, 0, tzinfo=UTC)


def archive(url: str, folder: Path, texts: list[str]) -> Scene:
    scene = Scene(url, folder).create_table()
    for number, text in enumerate(texts):
        day = parse_day(text, KST)
        scene.add(5, first=1 + 10 * number, day=day, content=None if number % 2 else "안녕\r\n\"'\\ ", tokens=None)
        scene.archive(day)
    return scene


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """Backups of every kind, the folder of Chroma, and the database."""
    root = tmp_path_factory.mktemp("made")
    database = root / "service.db"
    database.touch()
    url = f"sqlite:///{database}"
    backups = root / "backups"
    archive(url, backups, ["2026-09-01", "2026-09-02"])
    storage = LocalStorage(backups)
    dumped = dump_databases([parse_database_url(url)], storage, DumpOptions(KST), now=lambda: NOW)
    assert dumped.results[0].proven, dumped
    make_folder(root / "chroma_db", {"saju_knowledge": 50})
    take_snapshot(storage, Source(folder=root / "chroma_db"), zone=KST, clock=lambda: NOW)
    return backups, root / "chroma_db", url


@pytest.fixture
def storage(made: Any, tmp_path: Path) -> LocalStorage:
    return LocalStorage(Path(shutil.copytree(made[0], tmp_path / "backups")))


class Refusing(LocalStorage):
    """A store that lists a file and doesn't give it, such as a file in Glacier."""

    def open(self, name: str) -> BinaryIO:
        if name.startswith("database/") and name.endswith(".manifest.json"):
            raise StorageError(f"S3 could not read {name} (403 InvalidObjectState)")
        return super().open(name)


def test_a_manifest_that_the_store_does_not_give_is_reported_and_the_rest_is_verified(storage: LocalStorage) -> None:
    result = verify(Refusing(storage.root), now=NOW, zone=KST)
    assert (len(result.rot), result.files_checked, result.passed) == (1, 3, False)
    assert "InvalidObjectState" in result.rot[0]
    pruned = prune(Refusing(storage.root), Policy(1), now=NOW + timedelta(days=99), zone=KST, dry_run=False)
    assert pruned.deleted == []
    assert "can't be read" in pruned.strangers[0]


def look(storage: Any, **more: Any) -> VerifyResult:
    return verify(storage, now=NOW, zone=KST, **more)


def test_sound_backups_pass_and_every_byte_was_read(storage: LocalStorage) -> None:
    result = look(storage)
    assert result.passed
    data = [n for n in storage.names("") if not n.endswith(".manifest.json")]
    assert result.files_checked == len(data) == 4
    assert result.bytes_read == sum(storage.size(n) for n in data)
    assert not result.strangers


def test_a_bit_that_flipped_in_any_file_is_rot(storage: LocalStorage) -> None:
    for name in [n for n in storage.names("") if not n.endswith(".manifest.json")]:
        path = Path(storage.location(name))
        whole = path.read_bytes()
        data = bytearray(whole)
        data[len(data) // 2] ^= 4
        path.write_bytes(data)
        result = look(storage)
        assert len(result.rot) == 1, name
        assert path.name in result.rot[0]
        assert not result.passed
        path.write_bytes(whole)


def test_a_file_that_is_gone_is_missing_and_one_that_nobody_knows_a_stranger(storage: LocalStorage) -> None:
    gone = next(n for n in storage.names("chroma/") if n.endswith(".tar.gz"))
    Path(storage.location(gone)).unlink()
    with storage.create("database/mine.txt") as writer:
        writer.commit()
    result = look(storage)
    assert [gone in text for text in result.missing] == [True]
    assert result.strangers == [storage.location("database/mine.txt")]


@pytest.mark.parametrize("folder", ["conversation_logs/", "database/", "chroma/"])
def test_a_file_of_ours_whose_manifest_is_lost_is_missing_that(
    storage: LocalStorage, made: Any, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """A day that was purged can't be restored without it."""
    lost = next(n for n in storage.names(folder) if n.endswith(".manifest.json"))
    Path(storage.location(lost)).unlink()
    result = look(storage)
    (text,) = result.missing
    assert lost in text
    assert "no restore takes it" in text
    assert result.strangers == []
    assert not result.passed
    monkeypatch.setenv("BACKUP_URI", str(storage.root))
    monkeypatch.setenv("DATABASE_URL", made[2])
    said = CliRunner().invoke(main, ["verify", "--no-drills"])
    assert said.exit_code == 1
    assert "can be relied on" not in said.output


def test_a_part_of_a_day_whose_manifest_is_lost_is_missing_that(storage: LocalStorage) -> None:
    with storage.create("conversation_logs/2026/09/conversation_log_backup_20260901.part2.csv") as writer:
        writer.commit()
    (text,) = look(storage).missing
    assert "conversation_log_backup_20260901.part2.manifest.json" in text


def test_a_file_that_is_named_nearly_like_ours_is_a_stranger(storage: LocalStorage) -> None:
    names = ("database/app_20261301.sql.gz", "conversation_logs/2026/09/a.csv", "conversation_log_backup_20260901.csv")
    for name in names:
        with storage.create(name) as writer:
            writer.commit()
    result = look(storage)
    assert sorted(result.strangers) == sorted(storage.location(n) for n in names)
    assert result.passed


def dated_ahead(storage: LocalStorage, kind: Kind) -> str:
    """The backup's copy under the name and time that a clock 400 days ahead gives."""
    (manifest,) = backups(storage, kind)
    taken = manifest.taken + timedelta(days=400)
    file = manifest.file.replace("20261122_050000", "20271227_050000")
    assert file != manifest.file
    shutil.copyfile(storage.location(manifest.file), storage.location(file))
    write_manifest(storage, replace(manifest, file=file, taken_at=taken.isoformat()))
    return file


def test_a_backup_dated_in_the_future_is_reported_and_not_drilled(storage: LocalStorage, made: Any) -> None:
    ahead = {dated_ahead(storage, kind) for kind in ("database_dump", "chroma_snapshot")}  # type: ignore[arg-type]
    result = look(storage, drills=drills(storage, made[2]))
    assert {Path(text.partition(",")[0]).name for text in result.future} == {Path(f).name for f in ahead}
    assert any(line.startswith("FUTURE: ") and "2027-12-26 20:00 UTC" in line for line in result.sentences())
    assert any("2 backups are dated in the future" in w for w in result.warnings)
    assert [(d.passed, "20271227" in d.name) for d in result.drills] == [(True, False)] * 3
    assert "날짜가 미래인 백업: 2개" in verify_report(result, NOW)


def test_a_restore_takes_tonight_s_backup_and_not_one_of_the_future(
    storage: LocalStorage, made: Any, tmp_path: Path
) -> None:
    dump, snapshot = (dated_ahead(storage, kind) for kind in ("database_dump", "chroma_snapshot"))  # type: ignore[arg-type]
    url, later = parse_database_url(made[2]), NOW + timedelta(hours=1)
    asked = RestoreRequest(now=later)
    assert "20261122" in find_dump(storage, asked, url).file
    assert find_dump(storage, replace(asked, at=NOW + timedelta(days=401)), url).file == dump
    assert "20261122" in choose(storage, None, KST, later).file
    assert choose(storage, NOW + timedelta(days=401), KST, later).file == snapshot
    into = replace(asked, into=sa.make_url(f"sqlite:///{tmp_path}/back.db"))
    said = "\n".join(restore_dump(storage, into, default=url).sentences())
    assert "NEWER, and can't be restored:" in said
    assert "20271227_050000 (its time is in the future" in said
    for name in [n for n in storage.names("") if "20261122" in n]:
        storage.delete(name)
    with pytest.raises(Refused, match=r"is dated in the future.*name a time with --at"):
        find_dump(storage, asked, url)
    with pytest.raises(Refused, match="is dated in the future"):
        choose(storage, None, KST, later)


class Cold(LocalStorage):
    """A store whose older manifests are in Glacier."""

    cold = ""

    def open(self, name: str) -> BinaryIO:
        if self.cold and self.cold in name:
            raise StorageError(f"S3 could not read {name} (403 InvalidObjectState)")
        return super().open(name)


def test_one_manifest_that_the_store_does_not_give_blocks_no_restore_of_another(
    storage: LocalStorage, made: Any, tmp_path: Path
) -> None:
    url, cold = parse_database_url(made[2]), Cold(storage.root)
    for kind in ("database_dump", "chroma_snapshot"):
        (manifest,) = backups(storage, kind)  # type: ignore[arg-type]
        older = manifest.file.replace("20261122", "20251122")
        shutil.copyfile(storage.location(manifest.file), storage.location(older))
        write_manifest(
            storage, replace(manifest, file=older, taken_at=(manifest.taken - timedelta(days=365)).isoformat())
        )
    cold.cold = "20251122_050000.manifest"
    assert "20261122" in find_dump(cold, RestoreRequest(now=NOW), url).file
    assert "20261122" in choose(cold, None, KST, NOW).file
    assert [(d.passed, d.tried) for d in look(cold, drills=drills(cold, made[2])).drills] == [(True, True)] * 3  # type: ignore[arg-type]
    cold.cold = "20261122_050000.manifest"
    assert "20251122" in find_dump(cold, RestoreRequest(now=NOW), url).file
    into = RestoreRequest(now=NOW, into=sa.make_url(f"sqlite:///{tmp_path}/back.db"))
    assert "20261122_050000 (its manifest" in "\n".join(restore_dump(cold, into, default=url).sentences())
    cold.cold = ".manifest"
    with pytest.raises(StorageError, match="InvalidObjectState"):
        find_dump(cold, RestoreRequest(now=NOW), url)


def test_names_that_no_folder_can_have_are_reported_and_the_rest_is_verified(storage: LocalStorage) -> None:
    class Bucket(LocalStorage):
        """As S3 lists them; two of them would be other files in a folder."""

        def names(self, prefix: str) -> Iterator[str]:
            strange = ["saju//x", "a/../b", "chroma/./y.tar.gz"]
            manifests = ["database//x.manifest.json", "database/../z.manifest.json"]
            strange += ["database//app_20200101_000000.sql.gz"]
            yield from sorted([*super().names(prefix), *(n for n in strange + manifests if n.startswith(prefix))])

    result = verify(Bucket(storage.root), now=NOW, zone=KST)
    assert result.files_checked == 4
    assert {"saju//x", "a/../b", "chroma/./y.tar.gz"} <= set(result.strangers)
    assert len(result.rot) == 2
    assert all("is not a name inside the storage" in text for text in result.rot)
    pruned = prune(Bucket(storage.root), Policy(1), now=NOW + timedelta(days=99), zone=KST, dry_run=False)
    assert (pruned.deleted, pruned.problems) == ([], [])
    assert "database//app_20200101_000000.sql.gz" in pruned.strangers


@pytest.mark.parametrize("folder", ["conversation_logs/2026", "database"])
def test_what_is_behind_a_link_is_not_passed_for_verified(environment: LocalStorage, folder: str) -> None:
    """Such as a year that an operator put on another disk."""
    place = environment.root / folder
    place.rename(environment.root.parent / "disk")
    place.symlink_to(environment.root.parent / "disk")
    said = CliRunner().invoke(main, ["verify"])
    assert said.exit_code == 1, said.output
    assert "1 link inside the store is not followed" in said.output
    assert "restored. 5,000" in said.output or "Drill snapshot" in said.output
    assert "can be relied on" not in said.output


def test_a_drill_that_could_not_be_tried_is_said_and_the_command_ends_with_status_1(
    environment: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{environment.root}/../another.db")
    (environment.root / ".." / "another.db").touch()
    said = CliRunner().invoke(main, ["verify"])
    assert said.exit_code == 1, said.output
    assert "since no drill could be tried: dump service_20261122_050000.sqlite" in said.output
    assert "can be relied on" not in said.output


def test_a_stranger_alone_fails_nothing(storage: LocalStorage) -> None:
    with storage.create("notes.txt") as writer:
        writer.commit()
    assert look(storage).passed


def test_a_bit_that_flipped_anywhere_in_a_manifest_is_rot(storage: LocalStorage) -> None:
    for name in [n for n in storage.names("") if n.endswith(".manifest.json")]:
        path = Path(storage.location(name))
        whole = path.read_bytes()
        # Not in the name of the seal's own entry: without it the rest is what it was.
        for place in range(3, whole.rindex(b'"manifest_sha256"'), 97):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            # White space between the entries says nothing.
            if json.loads(whole) != _loaded(path):
                assert not look(storage).passed, (name, whole[place - 20 : place + 20])
        path.write_bytes(whole)


def _loaded(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        return None


def test_a_manifest_without_a_seal_is_an_earlier_versions_and_passes(storage: LocalStorage) -> None:
    for name in [n for n in storage.names("") if n.endswith(".manifest.json")]:
        path = Path(storage.location(name))
        content = json.loads(path.read_text())
        del content["manifest_sha256"]
        path.write_text(json.dumps(content))
    assert look(storage).passed


def test_a_manifest_that_is_cut_is_rot(storage: LocalStorage) -> None:
    for name in [n for n in storage.names("") if n.endswith(".manifest.json")]:
        path = Path(storage.location(name))
        whole = path.read_text()
        path.write_text(whole[: len(whole) // 2])
        assert len(look(storage).rot) == 1, name
        path.write_text(whole)


@pytest.mark.parametrize("days", [1, 2, 7, 30])
def test_a_share_a_day_reads_everything_once_in_that_many_days(storage: LocalStorage, days: int) -> None:
    results = [verify(storage, now=NOW + timedelta(days=n), zone=KST, in_days=days) for n in range(days)]
    assert sum(r.files_checked for r in results) == 4
    assert all(r.files == 4 for r in results)


def test_an_impossible_share_is_refused(storage: LocalStorage) -> None:
    with pytest.raises(Refused, match="may be from 1 to 366"):
        look(storage, in_days=0)


def test_of_two_stores_what_one_lacks_is_missing(storage: LocalStorage, tmp_path: Path) -> None:
    other = LocalStorage(Path(shutil.copytree(storage.root, tmp_path / "other")))
    assert look(Two(storage, other)).files_checked == 8
    gone = next(n for n in other.names("database/") if n.endswith(".manifest.json"))
    Path(other.location(gone)).unlink()
    result = look(Two(storage, other))
    assert any(other.location(gone) in text for text in result.missing)
    assert not result.passed


def test_verifying_changes_nothing(storage: LocalStorage, made: Any, own_scratch: Path) -> None:
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in storage.root.rglob("*") if p.is_file()}
    look(storage, drills=drills(storage, made[2]))
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in storage.root.rglob("*") if p.is_file()} == before
    assert not list(own_scratch.glob("saju_ops_chroma_*"))


# --- drills ------------------------------------------------------------------------------------------------------


def drills(storage: LocalStorage, url: str, now: datetime = NOW) -> Any:
    return standard_drills(storage, now=now, zone=KST, databases=[parse_database_url(url)], drill_servers=[])


def test_the_drills_restore_a_day_a_dump_and_a_snapshot(storage: LocalStorage, made: Any) -> None:
    result = look(storage, drills=drills(storage, made[2]))
    assert [(d.name.split()[0], d.passed) for d in result.drills] == [
        ("archive", True), ("dump", True), ("snapshot", True),
    ], result.sentences()  # fmt: skip
    assert [d.records for d in result.drills] == [5, 11, 50]  # with the row of sqlite_sequence
    assert result.passed


@pytest.mark.long
def test_a_day_of_any_engine_can_be_drilled(database_url: str, storage: LocalStorage, tmp_path: Path) -> None:
    if database_url.startswith("sqlite"):
        Path(database_url.removeprefix("sqlite:///")).touch()
    scene = archive(database_url, tmp_path / "mine", ["2026-09-01", "2026-09-02"])
    scene.add(3, first=6, day=parse_day("2026-09-01", KST))
    scene.update("content = '바뀜'", "log_id = 1")
    scene.archive(parse_day("2026-09-01", KST))
    drills = [archive_drill(scene.storage, now=NOW + timedelta(days=n), zone=KST) for n in range(6)]
    assert not [d.text for d in drills if not d.passed]
    assert {d.records for d in drills} == {8, 5}, "each day has its turn"


def test_a_drill_that_fails_fails_the_verification(storage: LocalStorage) -> None:
    for name in storage.names("conversation_logs/"):
        if name.endswith(".csv"):
            path = Path(storage.location(name))
            path.write_bytes(path.read_bytes().replace(b"s1", b"s9"))
    drill = archive_drill(storage, now=NOW, zone=KST)
    assert (drill.passed, drill.tried) == (False, True)
    assert not look(storage, drills=[lambda: [drill]]).passed


def test_a_dump_that_comes_back_otherwise_fails_the_verification(storage: LocalStorage, made: Any) -> None:
    (manifest,) = backups(storage, "database_dump")
    tables = manifest.contents["tables"]
    tables["conversation_logs"]["checksum"] = "0" * 16
    storage.delete(manifest.name)
    write_manifest(storage, manifest)
    (drill,) = dump_drills(storage, [parse_database_url(made[2])], [], now=NOW)
    assert (drill.passed, drill.tried) == (False, True)
    assert drill.text == "table conversation_logs has the right number of rows and another checksum"
    assert not look(storage, drills=[lambda: [drill]]).passed


def test_what_can_not_be_tried_fails_nothing(tmp_path: Path) -> None:
    nothing = LocalStorage(tmp_path / "nothing")
    drills = [
        archive_drill(nothing, now=NOW, zone=KST),
        *dump_drills(nothing, [], [], now=NOW),
        snapshot_drill(nothing),
    ]
    assert [(d.passed, d.tried) for d in drills] == [(False, False)] * 3
    assert look(nothing, drills=[lambda: drills]).passed


def test_a_dump_of_a_database_that_is_configured_no_more_is_not_tried(storage: LocalStorage) -> None:
    (drill,) = dump_drills(storage, [sa.make_url("sqlite:////elsewhere.db")], [], now=NOW)
    assert (drill.passed, drill.tried) == (False, False)


# --- as operators see it -----------------------------------------------------------------------------------------


@pytest.fixture
def environment(storage: LocalStorage, made: Any, monkeypatch: pytest.MonkeyPatch) -> LocalStorage:
    monkeypatch.setenv("BACKUP_URI", str(storage.root))
    monkeypatch.setenv("DATABASE_URL", made[2])
    monkeypatch.setenv("CHROMA_DB_PATH", str(made[1]))
    return storage


def execute(job: str, instance: dg.DagsterInstance, config: dict[str, Any] | None = None) -> Any:
    given = {"ops": {job: {"config": config}}} if config else {}
    return defs().resolve_job_def(job).execute_in_process(instance=instance, raise_on_error=False, run_config=given)


def outputs(result: Any) -> dict[str, Any]:
    (found,) = (e.step_output_data.metadata for e in result.all_events if e.event_type_value == "STEP_OUTPUT")
    return {k: v.value for k, v in found.items()}


def check_results(instance: dg.DagsterInstance, name: str = "every_backup_reads_back") -> list[Any]:
    key = dg.AssetCheckKey(dg.AssetKey("stored_backups"), name)
    records = instance.event_log_storage.get_asset_check_execution_history(key, limit=5)
    return [r.event.dagster_event.event_specific_data for r in records if r.event]


def test_the_job_verifies_and_its_result_is_the_check_of_the_stored_backups(environment: LocalStorage) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        result = execute("verify_backups", instance)
        assert result.success
        metadata = outputs(result)
        assert (metadata["files_checked"], metadata["drills_passed"], metadata["rotten"]) == (4, 3, 0)
        assert metadata["report"].startswith("✅ *백업 검증 완료*")
        assert [c.passed for c in check_results(instance)] == [True]

        name = next(n for n in environment.names("database/") if not n.endswith(".json"))
        Path(environment.location(name)).write_bytes(b"rot")
        assert not execute("verify_backups", instance, {"in_days": 1, "drills": False}).success
        assert [c.passed for c in check_results(instance)] == [False, True]


def test_the_prune_job_lists_by_hand_and_deletes_on_request(environment: LocalStorage) -> None:
    before = set(environment.names(""))
    stray = "chroma/chromadb_20200101_000000.tar.gz"
    with environment.create(stray) as writer:
        writer.commit()
    with dg.DagsterInstance.ephemeral() as instance:
        metadata = outputs(execute("prune_backups", instance))
        assert (metadata["dry_run"], metadata["backups_to_go"], metadata["backups_deleted"], metadata["strays"]) == (
            True,
            1,
            0,
            1,
        )
        assert environment.exists(stray)
        metadata = outputs(execute("prune_backups", instance, {"dry_run": False}))
        assert metadata["backups_deleted"] == 1
        assert set(environment.names("")) == before
        assert not execute("prune_backups", instance, {"dry_run": False, "retention_days": 0}).success


def test_the_snapshot_job_stores_a_proven_snapshot_and_measures(environment: LocalStorage) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        result = execute("snapshot_chroma", instance)
        assert result.success
        (checked,) = result.get_asset_check_evaluations()
        assert (checked.passed, checked.metadata["records_compared"].value) == (True, 50)
        events = result.get_asset_materialization_events()
        recorded = {e.asset_key.to_user_string(): e.materialization.metadata for e in events}
        assert recorded["chroma_snapshot"]["records"].value == 50
        assert recorded["chroma_snapshot"]["documents/saju_knowledge"].value == 50
        assert recorded["chroma_usage"]["documents"].value == 50
        assert recorded["chroma_usage"]["snapshots"].value == 2
        stored = Path(str(recorded["chroma_usage"]["dagster/uri"].value))
        assert re.fullmatch(r"chroma_usage_\d{8}\.csv", stored.name)
        assert stored.read_text("utf-8-sig").splitlines() == [
            "tenant,database,collection,dimension,documents",
            "default_tenant,default_database,empty_one,,0",
            "default_tenant,default_database,saju_knowledge,16,50",
        ]
        assert recorded["chroma_snapshot"]["report"].value.startswith("🧠 *ChromaDB Snapshot*")


def test_the_restore_job_only_says_what_it_would_do_by_hand(environment: LocalStorage, tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        metadata = outputs(execute("restore_chroma_snapshot", instance, {"into_path": str(tmp_path / "x")}))
        assert (metadata["dry_run"], metadata["records"], metadata["records_written"]) == (True, 50, 0)
        assert not (tmp_path / "x").exists()
        done = execute("restore_chroma_snapshot", instance, {"into_path": str(tmp_path / "x"), "dry_run": False})
        assert outputs(done)["records_written"] == 50
        assert (tmp_path / "x" / "chroma.sqlite3").is_file()


def test_schedules_are_seouls_and_delete_and_run_by_themselves() -> None:
    found = {s.name: s for s in defs().schedules or [] if isinstance(s, dg.ScheduleDefinition)}
    wanted = {
        "chroma_snapshot_daily": "30 3 * * *", "prune_backups_daily": "30 4 * * *",
        "verify_backups_weekly": "0 5 * * 0",
    }  # fmt: skip
    for name, cron in wanted.items():
        assert (found[name].cron_schedule, found[name].execution_timezone) == (cron, "Asia/Seoul")
        assert found[name].default_status is dg.DefaultScheduleStatus.RUNNING
    context = dg.build_schedule_context(scheduled_execution_time=NOW)
    (request,) = found["prune_backups_daily"].evaluate_tick(context).run_requests or []
    assert request.run_config["ops"]["prune_backups"]["config"]["dry_run"] is False


def test_the_command_says_rot_and_ends_with_status_1(environment: LocalStorage) -> None:
    said = CliRunner().invoke(main, ["verify", "--no-drills"])
    assert said.exit_code == 0, said.output
    assert "4 stored files read and compared" in said.output
    name = next(n for n in environment.names("chroma/") if not n.endswith(".json"))
    Path(environment.location(name)).write_bytes(b"rot")
    said = CliRunner().invoke(main, ["verify", "--no-drills"])
    assert said.exit_code == 1
    assert "ROT: " in said.output


def test_the_korean_report_names_what_is_wrong() -> None:
    result = VerifyResult(1, files=3, files_checked=3, bytes_read=10, rot=["a.sql.gz is damaged"])
    result.drills = [Drill("dump x", False, True, "differs"), Drill("snapshot y", True, True, "ok", 5, 1.0)]
    report = verify_report(result, NOW)
    assert report.startswith("🚨 *백업 검증: 확인이 필요합니다*")
    assert "- 손상: 1개, 누락: 0개, 알 수 없는 파일: 0개" in report
    assert "- 복원 훈련 dump x: 실패 ⚠️ (differs)" in report
    assert "- 복원 훈련 snapshot y: 성공 (5건, 1.0초)" in report


def test_a_folder_without_backups_does_not_pass_for_one_where_all_is_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mistyped").mkdir()
    monkeypatch.setenv("BACKUP_URI", str(tmp_path / "mistyped"))
    said = CliRunner().invoke(main, ["verify", "--no-drills"])
    assert said.exit_code == 1
    assert "holds no backup. Look at BACKUP_URI." in said.output


@pytest.mark.parametrize("made_before", [False, True])
def test_the_job_says_the_same_of_a_store_without_any_backup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made_before: bool
) -> None:
    """A new installation's is a warning; where Dagster knows of backups that were made, they are gone."""
    monkeypatch.setenv("BACKUP_URI", str(tmp_path / "new"))
    said = "holds no backup. Look at BACKUP_URI."
    with dg.DagsterInstance.ephemeral() as instance:
        if made_before:
            instance.report_runless_asset_event(dg.AssetMaterialization("database_dump"))
        result = execute("verify_backups", instance)
        assert result.success is not made_before
        if not made_before:
            metadata = outputs(result)
            assert (metadata["files"], metadata["warnings"], metadata["rotten"]) == (0, 1, 0)
            assert said in metadata["summary"]
            assert metadata["report"].startswith("⚠️ *백업 검증: 경고*")
            assert "저장된 백업이 하나도 없습니다" in metadata["report"]
        else:
            (failed,) = (e for e in result.all_events if e.event_type_value == "STEP_FAILURE")
            assert said in failed.step_failure_data.user_failure_data.description
            assert "Backups were made before" in failed.step_failure_data.user_failure_data.description
        wanted = dg.AssetCheckSeverity.ERROR if made_before else dg.AssetCheckSeverity.WARN
        assert [(c.passed, c.severity) for c in check_results(instance)] == [(False, wanted)]

        (check,) = (c for c in defs().asset_checks or [] if CHECK in {s.name for s in c.check_specs})
        looked = dg.materialize(
            [check], instance=instance, selection=dg.AssetSelection.all_asset_checks(),
            resources={"backup_storage": BackupStorage()},
        )  # fmt: skip
        checks = {e.check_name: (e.passed, e.severity) for e in looked.get_asset_check_evaluations()}
        assert checks == {CHECK: (False, wanted), OPENS: (True, dg.AssetCheckSeverity.WARN)}


def test_a_store_with_one_backup_that_is_damaged_is_not_called_empty(storage: LocalStorage) -> None:
    for name in list(storage.names("")):
        if name.endswith(".manifest.json") and name.startswith("database/"):
            Path(storage.location(name)).write_bytes(b"{")
        else:
            Path(storage.location(name)).unlink()
    result = look(storage)
    assert (result.passed, result.empty, result.warnings) == (False, False, [])


# --- after a change of ARCHIVE_PASSWORD --------------------------------------------------------------------------

OLD, NEW = "correct horse battery", "another long password"


@pytest.fixture(scope="module")
def made_encrypted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """The same under the password OLD."""
    root = tmp_path_factory.mktemp("encrypted")
    (root / "service.db").touch()
    url = f"sqlite:///{root / 'service.db'}"
    make_folder(root / "chroma_db", {"saju_knowledge": 50})
    scene = Scene(url, root / "backups").create_table()
    add_backups(scene, root, OLD, ["2026-09-01", "2026-09-02"], NOW)
    return root / "backups", root, url


def add_backups(scene: Scene, root: Path, password: str, days: list[str], now: datetime) -> None:
    scene.storage = storage = LocalStorage(scene.folder, password, Seals((password,)))
    for text in days:
        day = parse_day(text, KST)
        scene.add(5, first=1 + 10 * int(text[-2:]), day=day)
        scene.archive(day)
    assert dump_databases([parse_database_url(scene.url)], storage, DumpOptions(KST), now=lambda: now).results[0].proven
    take_snapshot(storage, Source(folder=root / "chroma_db"), zone=KST, clock=lambda: now)


@pytest.fixture
def old_store(made_encrypted: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made_encrypted[0], tmp_path / "old_store"))


@pytest.mark.parametrize("password", [NEW, None])
def test_intact_files_of_another_password_are_no_rot(
    old_store: Path, made_encrypted: Any, password: str | None
) -> None:
    assert not look(LocalStorage(old_store, OLD)).warnings
    store = LocalStorage(old_store, password)
    result = look(store, drills=drills(store, made_encrypted[2]))
    assert (result.rot, result.missing, result.passed, result.files_checked) == ([], [], True, 4)
    assert result.other_password == [store.location(n) for n in store.names("") if n.endswith(".zip")]
    warning, untried = result.warnings
    assert "no drill could be tried: archive day" in untried
    assert warning.startswith("4 files are intact, but encrypted with another password")
    assert ("ARCHIVE_PASSWORD is not set" in warning) is (password is None)
    assert [(d.passed, d.tried) for d in result.drills] == [(False, False)] * 3
    assert all("encrypted with another password" in d.text for d in result.drills)
    assert sum(text.startswith("OTHER PASSWORD: ") for text in result.sentences()) == 4
    report = verify_report(result, NOW)
    assert report.startswith("⚠️ *백업 검증: 경고*")
    assert "다른 비밀번호로 암호화된 파일: 4개" in report
    assert "- 손상: 0개, 누락: 0개" in report


@pytest.mark.parametrize("in_days", [1, 7])
def test_what_the_old_password_sealed_is_of_another_password_on_its_day_and_fails_none(
    old_store: Path, in_days: int
) -> None:
    store = LocalStorage(old_store, NEW, Seals((NEW,)))
    found = [verify(store, now=NOW + timedelta(days=n), zone=KST, in_days=in_days) for n in range(in_days)]
    assert [(r.unsealed, r.rot, r.passed) for r in found] == [([], [], True)] * in_days
    assert sum(len(r.other_password) for r in found) == 4


@pytest.mark.parametrize("place", ["the salt", "the middle", "the end", "cut"])
def test_a_damaged_file_of_another_password_is_rot(old_store: Path, place: str) -> None:
    store = LocalStorage(old_store, NEW)
    for name in [n for n in store.names("") if n.endswith(".zip")]:
        path = Path(store.location(name))
        whole = path.read_bytes()
        at = {"the salt": salt_at(whole), "the middle": len(whole) // 2}.get(place, len(whole) - 1)
        path.write_bytes(whole[:at] if place == "cut" else whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        for each in (store, LocalStorage(old_store, OLD)):
            result = look(each)
            assert (len(result.rot), len(result.other_password)) == (1, 3 * (each is store)), result.sentences()
            assert path.name in result.rot[0]
            assert "damaged" in result.rot[0]
        path.write_bytes(whole)


def salt_at(data: bytes) -> int:
    """Where the salt of a zip file's first member begins: after the local header, the name and the extra field."""
    name, extra = struct.unpack_from("<HH", data, 26)
    return 30 + int(name) + int(extra)


def test_a_wrong_password_that_passes_the_formats_own_test_is_no_rot(old_store: Path) -> None:
    """WinZip's test has two bytes: one of 65,536 wrong passwords passes it, and gives nonsense."""
    store = LocalStorage(old_store, NEW)
    name = next(n for n in store.names("conversation_logs/") if n.endswith(".json"))
    manifest = parse_manifest((old_store / name).read_bytes(), name)
    data = bytearray((old_store / manifest.file).read_bytes())
    salt = salt_at(data)
    data[salt + 16 : salt + 18] = hashlib.pbkdf2_hmac("sha1", NEW.encode(), data[salt : salt + 16], 1000, 66)[-2:]
    (old_store / manifest.file).write_bytes(data)
    sealed = replace(manifest, stored_sha256=hashlib.sha256(data).hexdigest()).to_json()
    (old_store / name).write_bytes(sealed)
    result = look(store)
    assert (result.rot, len(result.other_password)) == ([], 4)


def test_an_archive_whose_rows_are_not_the_manifests_is_rot_under_its_own_password(old_store: Path) -> None:
    store = LocalStorage(old_store, OLD)
    name = next(n for n in store.names("conversation_logs/") if n.endswith(".json"))
    manifest = parse_manifest((old_store / name).read_bytes(), name)
    (old_store / name).write_bytes(replace(manifest, digest="0" * 16).to_json())
    result = look(store)
    assert (len(result.rot), result.other_password) == (1, [])
    assert "row digest" in result.rot[0]


@pytest.mark.long
def test_drills_take_what_the_password_opens_and_say_so(made_encrypted: Any, tmp_path: Path) -> None:
    root = Path(shutil.copytree(made_encrypted[1], tmp_path / "copy"))
    scene = Scene(f"sqlite:///{root / 'service.db'}", root / "backups")
    add_backups(scene, root, NEW, ["2026-09-03"], NOW + timedelta(days=1))
    scene.storage.seals = Seals((NEW, OLD))
    # The dumps of before lie under the same source, as they do in a service that stays where it is.
    for name in list(scene.storage.names("database/")):
        if name.endswith(".json"):
            manifest = read_manifest(scene.storage, name)
            scene.storage.delete(name)
            write_manifest(scene.storage, replace(manifest, source=f"sqlite:///{root / 'service.db'}"))
    for number in range(6):
        drill = archive_drill(scene.storage, now=NOW + timedelta(days=number), zone=KST)
        assert (drill.name, drill.passed) == ("archive day 20260903", True), drill
    later = NOW + timedelta(days=2)
    result = verify(scene.storage, now=later, zone=KST, drills=drills(scene.storage, scene.url, later))  # type: ignore[arg-type]
    assert [(d.passed, d.tried) for d in result.drills] == [(True, True)] * 3, result.sentences()
    assert len(result.other_password) == 4
    assert not any("passed over" in d.text for d in result.drills), "the newest were taken"

    # With the old password again, the newest are those that don't open.
    old = LocalStorage(scene.folder, OLD)
    result = verify(old, now=later, zone=KST, drills=drills(old, scene.url, later))
    assert [(d.passed, d.tried) for d in result.drills] == [(True, True)] * 3, result.sentences()
    assert ["1 newer were passed over" in d.text for d in result.drills] == [False, True, True]
    assert len(result.other_password) == 3


def test_a_damaged_day_is_drilled_and_reported_though_its_password_can_not_be_tried(old_store: Path) -> None:
    store = LocalStorage(old_store, OLD)
    for name in store.names("conversation_logs/"):
        if name.endswith(".zip"):
            path = Path(store.location(name))
            path.write_bytes(b"no zip file at all" * 99)
    drill = archive_drill(store, now=NOW, zone=KST)
    assert (drill.passed, drill.tried) == (False, True)


def test_the_job_warns_of_another_password_and_the_command_does(
    old_store: Path, made_encrypted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKUP_URI", str(old_store))
    monkeypatch.setenv("DATABASE_URL", made_encrypted[2])
    monkeypatch.setenv("ARCHIVE_PASSWORD", NEW)
    with dg.DagsterInstance.ephemeral() as instance:
        result = execute("verify_backups", instance)
        assert result.success
        metadata = outputs(result)
        assert (metadata["other_password"], metadata["rotten"], metadata["warnings"], metadata["drills_not_tried"]) == (
            4,
            0,
            2,
            3,
        )
        assert [c.passed for c in check_results(instance)] == [True]
        (opens,) = check_results(instance, OPENS)
        assert (opens.passed, opens.severity) == (False, dg.AssetCheckSeverity.WARN)
        assert opens.metadata["other_password"].value == 4
        monkeypatch.setenv("ARCHIVE_PASSWORD", OLD)
        metadata = outputs(execute("verify_backups", instance))
        assert (metadata["other_password"], metadata["warnings"], metadata["drills_passed"]) == (0, 0, 3)
        assert [c.passed for c in check_results(instance, OPENS)] == [True, False]
    said = CliRunner().invoke(main, ["verify", "--no-drills"], env={"ARCHIVE_PASSWORD": NEW})
    assert said.exit_code == 1
    assert "ROT" not in said.output
    assert "4 files are intact, but encrypted with another password than ARCHIVE_PASSWORD holds now" in said.output
    assert not any(p in said.output for p in (OLD, NEW))
