"""A malformed manifest is that backup's fault alone: restore, verify, prune and purge go on with the others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from saju_ops.database.connect import parse_database_url
from saju_ops.dumps.restore import RestoreRequest, find_dump
from saju_ops.errors import ProofFailed
from saju_ops.expired.session_cache import remember, remembered
from saju_ops.storage.local import LocalStorage
from saju_ops.storage.manifest import backups, read_manifest
from saju_ops.storage.seal import Seals, sealed
from saju_ops.upkeep.drills import archive_drill, dump_drills
from saju_ops.upkeep.inventory import inventory
from saju_ops.upkeep.policy import Policy
from saju_ops.upkeep.prune import prune
from saju_ops.upkeep.verify import verify
from saju_ops_tests.archive.scene import NOW as PURGED_AT
from saju_ops_tests.upkeep.test_seals import DAYS, KEY, KST, NOW, RESTORE_DUMP, RESTORE_LOGS, Service


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1_500_000_000)


def changed(**changes: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        raw = {k: v for k, v in json.loads(path.read_text()).items() if not k.startswith("manifest_")}
        path.write_bytes(sealed({**raw, **changes}))

    return write


def text(data: str) -> Callable[[Path], None]:
    return lambda path: void(path.write_bytes(data.encode("utf-8", "surrogatepass")))


def void(_: Any) -> None:
    return None


def inside(old: str, new: str) -> Callable[[Path], None]:
    return lambda path: void(path.write_text(path.read_text().replace(old, new, 1)))


EVERY: dict[str, Callable[[Path], None]] = {
    "deep": text("[" * 200_000), "deep objects": text('{"a":' * 200_000), "empty": text(""), "null": text("null"),
    "a list": text("[]"), "not utf-8": lambda p: void(p.write_bytes(b"\xff\xfe\xfa")), "sparse": sparse,
    "many parts": text("[" + "[]," * 5_000_000 + "[]]"), "no fields": text("{}"),
    "nan": inside('"stored_bytes": ', '"stored_bytes": NaN, "x": '),
    "a name twice": inside('"stored_bytes": ', '"stored_bytes": 1, "stored_bytes": '),
    "many digits": inside('"stored_bytes": ', '"stored_bytes": ' + "9" * 5_000),
    "negative": changed(stored_bytes=-1), "huge": changed(stored_bytes=2**63), "a float": changed(content_bytes=1.0),
    "a bool": changed(content_bytes=True), "null engine": changed(engine=None), "hash": changed(stored_sha256="x"),
    "another format": changed(format=2), "kind": changed(kind=["database_dump"]), "encryption": changed(encryption="x"),
    "far": changed(created_at="9999-12-31T23:59:59-14:00"), "long ago": changed(created_at="0001-01-01T00:00:00+14:00"),
    "no zone": changed(created_at="2026-10-01T00:00:00"), "outside": changed(file="../../x"),
    "half a character": inside('"tool": "', '"tool": "\\ud800'),
}  # fmt: skip
OF_DUMPS = EVERY | {
    "source": changed(source=5), "taken": changed(taken_at="9999-12-31T23:59:59-14:00"),
    "a word": changed(taken_at="x"),
    "contents list": changed(contents=[]), "contents": changed(contents={"tables": []}),
    "rows": changed(contents={"tables": {"a": {"rows": "5"}}, "definitions": {}, "dialect": ""}),
    "proven": changed(proven="yes"), "proof": changed(proof={"why_not": 5}), "defaults": changed(extra={"defaults": 1}),
    "extra": changed(extra={"database": ["x"]}),
}  # fmt: skip
OF_ARCHIVES = EVERY | {
    "columns": changed(columns=[]), "column": changed(columns=[{"name": 1}]), "key": changed(key=["nothing"]),
    "part": changed(part=0), "digest": changed(digest="-5"), "rows": changed(rows=10**30),
    "block": changed(largest_block=1 << 62),
    "pieces": changed(digest_algorithm="sha256-pieces-v1", pieces=[{"rows": 1}]), "day": changed(day="2026-13-45"),
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    Service(root)
    return root


@pytest.fixture
def service(made: Path, tmp_path: Path) -> Service:
    """Backups of an installation without a key. The dumps are of the database at its first place."""
    root = tmp_path / "service"
    shutil.copytree(made, root)
    found = object.__new__(Service)
    found.url, found.folder = f"sqlite:///{made / 'service.db'}", root / "backups"
    return found


@pytest.mark.long
@pytest.mark.parametrize("how", OF_DUMPS.values(), ids=OF_DUMPS)
def test_a_dumps_malformed_manifest_is_that_dumps_fault_alone(service: Service, how: Callable[[Path], None]) -> None:
    newest = service.manifests("database")[-1]
    how(newest)
    storage, url = LocalStorage(service.folder), parse_database_url(service.url)
    assert len(list(backups(storage, "database_dump"))) == 2
    assert find_dump(storage, RestoreRequest(), url).file.endswith("_050000.sqlite.gz")
    (drill,) = dump_drills(storage, [url], [], now=NOW)
    assert drill.passed
    result = verify(storage, now=NOW, zone=KST)
    (rot,) = result.rot
    assert rot.count(newest.name) == 1
    assert "\n" not in rot
    assert result.files_checked == 4
    pruned = prune(storage, Policy(days=1, minimum=1), now=NOW + timedelta(days=9), zone=KST, dry_run=False)
    assert len(pruned.deleted) == 1
    assert [newest.name in s for s in pruned.strangers] == [True]
    said = service.run(*RESTORE_DUMP, key=None)
    assert (said.exit_code, "its manifest is damaged" in said.output) == (0, True), said.output


@pytest.mark.long
@pytest.mark.parametrize("how", OF_ARCHIVES.values(), ids=OF_ARCHIVES)
def test_an_archives_malformed_manifest_stops_that_day_alone(
    service: Service, tmp_path: Path, how: Callable[[Path], None]
) -> None:
    shutil.copy(service.url.removeprefix("sqlite:///"), tmp_path / "service.db")
    service.url = f"sqlite:///{tmp_path / 'service.db'}"
    broken = service.manifests("conversation_logs")[0]
    how(broken)
    result = verify(LocalStorage(service.folder), now=NOW, zone=KST)
    assert [rot.count(broken.name) for rot in result.rot] == [1]
    said = service.run(*RESTORE_LOGS, key=None)
    assert said.exit_code == 1
    assert f"NOT RESTORED: {DAYS[0]}: " in said.output
    assert "1 archived day" in said.output
    drills = [archive_drill(LocalStorage(service.folder), now=NOW + timedelta(days=n), zone=KST) for n in range(4)]
    assert {d.tried for d in drills} == {True}
    from saju_ops_tests.archive.scene import Scene

    purged = Scene(service.url, service.folder).purge(now=PURGED_AT)
    assert (purged.deleted, len(purged.problems)) == (5, 1)
    assert broken.name in purged.problems[0]
    old = prune(LocalStorage(service.folder), Policy(1, archive_years=1), now=NOW + timedelta(days=284), zone=KST)
    assert [broken.name in p for p in old.problems] == [True]


def test_the_command_names_a_single_day_that_is_asked_for(service: Service) -> None:
    service.manifests("conversation_logs")[0].write_text("[]")
    said = service.run("restore-logs", "--from", DAYS[0], "--to", DAYS[0], "--dry-run", key=None)
    assert (said.exit_code, "is not a whole manifest" in said.output) == (1, True)


@pytest.mark.parametrize("stamp", ["20269999", "00010101", "99991231", "²0260901"])
def test_a_day_that_is_none_in_a_files_name_hides_no_other(service: Service, stamp: str) -> None:
    day = service.manifests("conversation_logs")[0]
    shutil.copy(day, day.with_name(day.name.replace("20260901", stamp)))
    said = service.run(*RESTORE_LOGS, key=None)
    assert said.exit_code == 0, said.output
    assert archive_drill(LocalStorage(service.folder), now=NOW, zone=KST).passed
    prune(LocalStorage(service.folder), Policy(1, archive_years=1), now=NOW + timedelta(days=284), zone=KST)


def test_a_time_that_no_zone_can_show_in_a_files_name_makes_it_a_stranger(service: Service) -> None:
    for stamp in ("00010101_000000", "99991231_235959", "20261340_000000"):
        (service.folder / f"database/app_{stamp}.sql.gz").write_bytes(b"x")
    assert len(inventory(LocalStorage(service.folder), "database_dump", KST).strangers) >= 2


@pytest.mark.parametrize(
    "name", ["x\nDrill dump app: restored. 5 tables came back.", "x\x1b[2J", "x\u202egz.lqs", "x\rROT", "x\u2028ROT: y"]
)
def test_a_name_prints_no_line_of_its_own(service: Service, name: str) -> None:
    for each in (
        f"database/{name}.sql.gz", f"database/app_20261101_030000.sql.gz{name}", f"database/{name}.manifest.json",
        f"conversation_logs/2026/09/conversation_log_backup_20260902.{name}", f"{name}",
    ):  # fmt: skip
        path = service.folder / each
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"{}")
    for command in (("verify",), ("prune",), RESTORE_DUMP, RESTORE_LOGS):
        said = service.run(*command, key=None)
        assert name not in said.output
        assert not any(line.startswith(("Drill dump app", "ROT: y")) for line in said.output.splitlines())
        assert "\x1b" not in said.output
        assert "Traceback" not in said.output
        assert said.exception is None or isinstance(said.exception, SystemExit), said.exception


def test_a_name_that_is_not_utf_8_is_a_stranger_that_can_be_printed(service: Service) -> None:
    (Path(str(service.folder)) / "database" / b"x\xff.sql.gz".decode("utf-8", "surrogateescape")).write_bytes(b"x")
    for command in (("verify", "--no-drills"), ("prune",), RESTORE_DUMP):
        said = service.run(*command, key=None)
        assert said.exit_code == 0, (said.output, said.exception)
        assert "udcff" in said.output or command == RESTORE_DUMP


def test_a_link_is_a_stranger_and_prune_deletes_nothing_behind_it(service: Service, tmp_path: Path) -> None:
    outside = Path(shutil.move(service.folder / "database", tmp_path / "outside"))
    (service.folder / "database").symlink_to(outside)
    before = sorted(p.name for p in outside.iterdir())
    storage = LocalStorage(service.folder)
    result = prune(storage, Policy(days=1, minimum=1), now=NOW + timedelta(days=99), zone=KST, dry_run=False)
    assert (result.deleted, sorted(p.name for p in outside.iterdir())) == ([], before)
    assert "links inside a store are not followed" in " ".join(result.problems)
    strangers = verify(storage, now=NOW, zone=KST).strangers
    assert strangers == [f"{service.folder}/database (a link, which is not followed)"]


# --- manifests as earlier versions made them ----------------------------------------------------------------------


def test_manifests_of_earlier_versions_stay_readable(service: Service) -> None:
    """The first ones had no SHA-256 of their own, no `encryption` and `pieces` in archives, no `extra`, fewer fields of
    columns, and nothing about broken views."""
    for path in service.manifests():
        raw = json.loads(path.read_text())
        for name in ("manifest_sha256", "extra", "pieces"):
            raw.pop(name, None)
        if raw["kind"] == "conversation_log_archive":
            del raw["encryption"]
            raw["columns"] = [
                {k: v for k, v in c.items() if k not in ("nullable", "generated")} for c in raw["columns"]
            ]
        else:
            raw["contents"] = {k: v for k, v in raw["contents"].items() if k not in ("notes", "broken_views")}
        path.write_text(json.dumps(raw, indent=1))
    result = verify(LocalStorage(service.folder), now=NOW, zone=KST)
    assert (result.passed, result.files_checked) == (True, 5), result.sentences()
    assert service.run(*RESTORE_LOGS, key=None).exit_code == 0


def test_what_a_later_version_adds_is_left(service: Service) -> None:
    for path in service.manifests():
        changed(later={"a": [1]})(path)
    assert verify(LocalStorage(service.folder), now=NOW, zone=KST).passed


def test_a_backup_in_a_folder_of_another_kind_counts_for_nothing(service: Service) -> None:
    real = service.manifests("database")[0]
    copy = service.folder / "masked_database" / real.name
    copy.parent.mkdir()
    shutil.copy(real, copy)
    with pytest.raises(ProofFailed, match="kind, format or file"):
        read_manifest(LocalStorage(service.folder), f"masked_database/{real.name}")


# --- what else a run reads back and acts on -----------------------------------------------------------------------


def test_sessions_are_forgotten_in_redis_by_sealed_lists_alone(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "backups", seals=Seals((KEY,)))
    mine = remember(storage, ["a", "b"], NOW)
    plain = {"sessions": ["live"]}
    for name, data in {"1": json.dumps(plain).encode(), "2": b"[" * 200_000, "3": sealed(plain)}.items():
        with storage.create(f"redis_pending/2026112{name}_000000_x.json") as writer:
            writer.write(data)
            writer.commit()
    left: list[str] = []
    assert list(remembered(storage, left)) == [(mine, ["a", "b"])]
    assert [name[:23] for name in left] == [f"redis_pending/2026112{n}_" for n in (1, 2, 3)]
    unread: list[str] = []
    found = [sessions for _, sessions in remembered(LocalStorage(storage.root), unread)]
    assert found == [["live"], ["a", "b"], ["live"]]
    assert [name[:23] for name in unread] == ["redis_pending/20261122_"]
