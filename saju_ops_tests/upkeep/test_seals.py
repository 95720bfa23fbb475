"""A person who can write into the store can make nothing that a run believes: keyed seals, on every command."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from saju_ops.cli.main import main
from saju_ops.database.connect import parse_database_url
from saju_ops.dumps.take import DumpOptions, dump_databases
from saju_ops.errors import ProofFailed
from saju_ops.rows.days import parse_day
from saju_ops.storage import seal as seals_module
from saju_ops.storage.local import LocalStorage
from saju_ops.storage.manifest import backups, read_manifest
from saju_ops.storage.open import open_storage
from saju_ops.storage.seal import NO_SEALS, Seals, Unsealed, derived, read_sealed, require_seal, sealed
from saju_ops.upkeep.drills import archive_drill, dump_drills
from saju_ops.upkeep.policy import Policy
from saju_ops.upkeep.prune import prune
from saju_ops.upkeep.seal import seal
from saju_ops.upkeep.verify import verify
from saju_ops_tests.archive.scene import Scene
from saju_ops_tests.fakes.s3 import Bucket, S3Server

KST = ZoneInfo("Asia/Seoul")
NOW = datetime(2026, 11, 21, 20, 0, tzinfo=UTC)
KEY, OTHER, PASSWORD = "0123456789abcdef" * 2, "fedcba9876543210" * 2, "correct horse battery"
DAYS = ["2026-09-01", "2026-09-02"]


class Service:
    """A SQLite service with two archived days and three dumps, and the commands that its operator uses."""

    def __init__(self, root: Path, *secrets: str, password: str | None = None) -> None:
        (root / "service.db").touch()
        self.url, self.folder = f"sqlite:///{root / 'service.db'}", root / "backups"
        self.scene = Scene(self.url, self.folder).create_table()
        self.scene.storage = self.store(*secrets, password=password)
        for number, text in enumerate(DAYS):
            day = parse_day(text, KST)
            self.scene.add(5, first=1 + 10 * number, day=day)
            self.scene.archive(day)
        for days in (3, 2, 1):
            at = NOW - timedelta(days=days)
            urls = [parse_database_url(self.url)]
            assert dump_databases(urls, self.scene.storage, DumpOptions(KST), now=lambda at=at: at).results[0].proven

    def store(self, *secrets: str, password: str | None = None, accept: tuple[str, ...] = ()) -> LocalStorage:
        return LocalStorage(self.folder, password, Seals(secrets, accept))

    def manifests(self, folder: str = "") -> list[Path]:
        return sorted((self.folder / folder).rglob("*.manifest.json"))

    def run(self, *command: str, key: str | None = KEY, password: str | None = None, into: Any = None) -> Result:
        given = {"DATABASE_URL": self.url, "BACKUP_URI": str(self.folder), "BACKUP_SEAL_KEY": key or ""}
        if password:
            given["ARCHIVE_PASSWORD"] = password
        return CliRunner().invoke(main, list(command), env=given)


def forge(path: Path, seals: Seals = NO_SEALS, name: str = "", **changes: Any) -> None:
    """Anybody who can write there can do this: change a manifest, and make it agree with itself."""
    raw = {k: v for k, v in json.loads(path.read_text()).items() if not k.startswith("manifest_")}
    path.write_bytes(sealed({**raw, **changes}, name, seals))


RESTORE_DUMP = ("restore-dump", "--dry-run")
RESTORE_LOGS = ("restore-logs", "--from", DAYS[0], "--to", DAYS[1], "--dry-run")
VERIFY = ("verify", "--no-drills")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    Service(root, KEY)
    return root


@pytest.fixture
def service(made: Path, tmp_path: Path) -> Service:
    """Backups that KEY sealed."""
    root = tmp_path / "service"
    shutil.copytree(made, root)
    found = object.__new__(Service)
    found.url, found.folder = f"sqlite:///{root / 'service.db'}", root / "backups"
    found.scene = Scene(found.url, found.folder)
    found.scene.storage = found.store(KEY)
    # Dumps are of the address that the database had when they were made.
    for path in found.manifests("database"):
        name = path.relative_to(found.folder).as_posix()
        forge(path, Seals((KEY,)), name, source=str(sa.make_url(found.url)))
    return found


@pytest.mark.parametrize("command", [RESTORE_DUMP, RESTORE_LOGS, VERIFY])
def test_what_this_installation_sealed_is_believed(service: Service, command: tuple[str, ...]) -> None:
    said = service.run(*command)
    assert said.exit_code == 0, said.output


@pytest.mark.parametrize("command", [RESTORE_DUMP, RESTORE_LOGS, VERIFY])
@pytest.mark.parametrize("kind", ["plain", "another key", "none"])
def test_what_no_key_of_ours_sealed_is_refused_with_what_to_do(
    service: Service, command: tuple[str, ...], kind: str
) -> None:
    for path in service.manifests():
        name = path.relative_to(service.folder).as_posix()
        forge(path, Seals((OTHER,)) if kind == "another key" else NO_SEALS, name, proven=True)
        if kind == "none":
            raw = json.loads(path.read_text())
            del raw["manifest_sha256"]
            path.write_text(json.dumps(raw))
    said = service.run(*command)
    assert said.exit_code == 1, said.output
    words = "is sealed by another key" if kind == "another key" else "is not sealed by a key, though"
    assert words in said.output
    assert "saju-ops seal" in said.output
    assert KEY not in said.output
    assert OTHER not in said.output
    named = service.run(*command, "--accept-unsealed")
    assert named.exit_code == 0, named.output


def test_one_backup_alone_is_accepted_by_its_name(service: Service) -> None:
    for path in service.manifests("database"):
        forge(path)
    (oldest, _, newest) = (p.name.split(".")[0] for p in service.manifests("database"))
    said = service.run(*RESTORE_DUMP, "--accept-unsealed", oldest)
    assert said.exit_code == 0, said.output
    assert f"The dump database/{oldest}.sqlite.gz" in said.output
    assert f"database/{newest} (no key of this installation sealed its manifest" in said.output
    assert service.run(*RESTORE_DUMP, "--accept-unsealed", "database/nothing.sqlite.gz").exit_code == 1


@pytest.mark.parametrize("command", [RESTORE_DUMP, RESTORE_LOGS, VERIFY])
@pytest.mark.parametrize("accept", [(), ("--accept-unsealed",)])
def test_an_altered_manifest_is_never_accepted(
    service: Service, command: tuple[str, ...], accept: tuple[str, ...]
) -> None:
    for path in service.manifests():
        raw = json.loads(path.read_text())
        seal_of = raw["manifest_seal"]
        forge(path, stored_bytes=raw["stored_bytes"] + 1, manifest_seal=None)
        changed = {k: v for k, v in json.loads(path.read_text()).items() if k != "manifest_sha256"}
        whole = {**changed, "manifest_seal": seal_of}
        path.write_text(json.dumps({**whole, "manifest_sha256": seals_module._digest(whole)}))
    said = service.run(*command, *accept)
    assert said.exit_code == 1
    assert "was altered, or belongs to another name" in said.output


def test_a_sealed_manifest_under_another_name_is_refused(service: Service) -> None:
    """With its file: an old dump as tonight's."""
    oldest = service.manifests("database")[0]
    stem = oldest.name.removesuffix(".manifest.json")
    new = stem[:-15] + "20261122_030000"
    shutil.copy(oldest.with_name(f"{stem}.sqlite.gz"), oldest.with_name(f"{new}.sqlite.gz"))
    copy = oldest.with_name(f"{new}.manifest.json")
    raw = json.loads(oldest.read_text())
    # As it is, and with the name inside changed, too.
    for text in (oldest.read_text(), json.dumps({**raw, "file": f"database/{new}.sqlite.gz"})):
        copy.write_text(text)
        with pytest.raises(ProofFailed, match="belongs to another name"):
            read_manifest(service.store(KEY), f"database/{copy.name}")
        assert f"The dump database/{new}" not in service.run(*RESTORE_DUMP).output


def test_a_purge_deletes_nothing_for_the_sake_of_an_unsealed_archive(service: Service) -> None:
    for path in service.manifests("conversation_logs"):
        forge(path)
    result = service.scene.purge()
    assert (result.deleted, len(result.problems)) == (0, 2)
    assert "is not sealed by a key" in result.problems[0]
    assert service.scene.count() == 10
    assert not seal(service.store(KEY), now=NOW, zone=KST).problems
    service.scene.storage = service.store(KEY)
    assert service.scene.purge().deleted == 10


def test_garbage_that_says_it_is_proven_makes_prune_delete_nothing(service: Service) -> None:
    real = service.manifests("database")
    for number in range(3):
        file = f"database/service_2026112{number + 1}_235900.sqlite.gz"
        (service.folder / file).write_bytes(b"garbage")
        shutil.copy(real[0], service.folder / file.replace(".sqlite.gz", ".manifest.json"))
        forge(
            service.folder / file.replace(".sqlite.gz", ".manifest.json"), file=file, stored_bytes=7, proven=True,
            stored_sha256="5a2a5f1ea3cbac2c9b4e1bfc3dd8fd2ff1d0c5e7ab6f7a4c6c4a5a4fdc8c0f43",
            taken_at=f"2026-11-2{number + 1}T14:59:00+00:00",
        )  # fmt: skip
    later = NOW + timedelta(days=30)
    result = prune(service.store(KEY), Policy(days=1, minimum=3), now=later, zone=KST, dry_run=False)
    assert result.deleted == []
    assert all(path.exists() for path in real)
    assert len([s for s in result.strangers if "not sealed by a key of this installation" in s]) == 3


def test_drills_try_nothing_that_is_not_sealed(service: Service) -> None:
    for path in service.manifests():
        forge(path)
    storage, urls = service.store(KEY), [parse_database_url(service.url)]
    for drill in (archive_drill(storage, now=NOW, zone=KST), *dump_drills(storage, urls, [], now=NOW)):
        assert (drill.passed, drill.tried) == (False, False)
        assert "sealed" in drill.text


# --- encryption ---------------------------------------------------------------------------------------------------


def test_a_manifest_that_says_it_is_not_encrypted_is_refused_where_a_password_is_set(tmp_path: Path) -> None:
    service = Service(tmp_path, PASSWORD, password=PASSWORD)
    assert service.run(*VERIFY, key=None, password=PASSWORD).exit_code == 0
    newest = service.manifests("database")[-1]
    file = newest.with_name(newest.name.replace(".manifest.json", ".sqlite.gz"))
    file.write_bytes(b"plain")
    forge(newest, encryption="none", file=f"database/{file.name}")
    said = service.run(*RESTORE_DUMP, key=None, password=PASSWORD)
    assert f"The dump database/{file.name}" not in said.output
    assert "no key of this installation sealed its manifest" in said.output
    assert service.run(*VERIFY, key=None, password=PASSWORD).exit_code == 1


def test_plain_backups_of_before_the_password_are_believed_once_they_are_sealed(tmp_path: Path) -> None:
    service = Service(tmp_path)
    said = service.run(*RESTORE_DUMP, key=None, password=PASSWORD)
    assert (said.exit_code, "is not sealed by a key" in said.output) == (1, True)
    said = service.run("seal", key=None, password=PASSWORD)
    assert said.exit_code == 0, said.output
    assert said.output.count("(NOT ENCRYPTED)") == 5
    for command in (RESTORE_DUMP, RESTORE_LOGS, VERIFY):
        assert service.run(*command, key=None, password=PASSWORD).exit_code == 0
    assert PASSWORD not in "".join(p.read_text() for p in service.manifests())


# --- sealing ------------------------------------------------------------------------------------------------------


@pytest.fixture
def older(tmp_path: Path) -> Service:
    """Backups of before there was a key."""
    return Service(tmp_path)


def contents_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_seal_changes_no_stored_file_and_makes_one_list(older: Service) -> None:
    before = contents_of(older.folder)
    said = older.run("seal", "--dry-run")
    assert (said.exit_code, contents_of(older.folder)) == (0, before)
    assert "5 manifests would be read and sealed" in said.output
    said = older.run("seal")
    assert said.exit_code == 0, said.output
    after = contents_of(older.folder)
    (made,) = after.keys() - before.keys()
    assert made.startswith("seals/seals_")
    assert {name: data for name, data in after.items() if name != made} == before
    said = older.run(*VERIFY)
    assert (said.exit_code, "Not one of ours" in said.output) == (0, False), said.output
    assert "0 manifests read whole and sealed" in older.run("seal").output
    assert contents_of(older.folder) == after


def test_seal_leaves_what_differs_from_its_manifest_and_names_it(older: Service) -> None:
    rotten, changed, *_ = older.manifests("database")
    file = rotten.with_name(rotten.name.replace(".manifest.json", ".sqlite.gz"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    changed.write_text(changed.read_text().replace('"proven": true', '"proven": false'))
    row = next((older.folder / "conversation_logs").rglob("*.csv"))
    row.write_bytes(row.read_bytes().replace(b"s1", b"s9"))
    said = older.run("seal")
    assert said.exit_code == 1
    assert said.output.count("NOT SEALED: ") == 3
    assert "2 manifests read whole and sealed" in said.output
    storage = older.store(KEY)
    assert len(list(backups(storage, "database_dump"))) == 1


def test_a_sealed_list_vouches_for_the_very_bytes_under_their_own_name(older: Service) -> None:
    assert older.run("seal").exit_code == 0
    path = older.manifests("database")[0]
    name = f"database/{path.name}"
    assert read_sealed(older.store(KEY), name)
    forge(path, server_version="another")
    with pytest.raises(Unsealed):
        read_sealed(older.store(KEY), name)


def test_a_forged_list_vouches_for_nothing(older: Service) -> None:
    for seals in (NO_SEALS, Seals((OTHER,))):
        assert older.run("seal", key=OTHER).exit_code == 0
        (made,) = (older.folder / "seals").iterdir()
        forge(made, seals, f"seals/{made.name}")
        said = older.run(*RESTORE_DUMP)
        assert (said.exit_code, "is not sealed by a key" in said.output) == (1, True)
        said = older.run(*VERIFY)
        assert (said.exit_code, made.name in said.output) == (1, True)
        made.unlink()


def test_seal_without_a_key_is_refused(older: Service) -> None:
    said = older.run("seal", key=None)
    assert (said.exit_code, "there is no key to seal with" in said.output) == (1, True)


# --- rotation -----------------------------------------------------------------------------------------------------


def test_after_a_change_of_the_key_the_old_one_verifies_until_everything_is_sealed_anew(service: Service) -> None:
    both = f"{OTHER}, {KEY}"
    assert service.run(*VERIFY, key=both).exit_code == 0
    assert service.run(*VERIFY, key=OTHER).exit_code == 1
    assert "another key" in service.run("seal", key=OTHER).output
    said = service.run("seal", key=both)
    assert (said.exit_code, "5 manifests read whole and sealed" in said.output) == (0, True), said.output
    for command in (RESTORE_DUMP, RESTORE_LOGS, VERIFY):
        assert service.run(*command, key=OTHER).exit_code == 0


def test_after_a_change_of_the_password_one_run_with_the_old_one_seals_by_the_key(tmp_path: Path) -> None:
    service = Service(tmp_path, PASSWORD, password=PASSWORD)
    new = "another long password"
    said = service.run(*VERIFY, key=None, password=new)
    assert "5 files are intact, but encrypted with another password" in said.output
    assert service.run("seal", key=KEY, password=PASSWORD).exit_code == 0
    said = service.run(*VERIFY, key=KEY, password=new)
    assert "NOT SEALED" not in said.output
    assert service.run(*RESTORE_DUMP, key=KEY, password=PASSWORD).exit_code == 0


def test_an_encrypted_file_that_another_password_made_is_not_sealed(tmp_path: Path) -> None:
    """Without a seal, only its encryption proves its origin."""
    service = Service(tmp_path, password="the attacker's password")
    said = service.run("seal", key=None, password=PASSWORD)
    assert said.exit_code == 1
    assert said.output.count("encrypted with another password") == 5
    assert "0 manifests read whole and sealed" in said.output


# --- stores -------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_seal_works_in_s3_and_in_two_stores(older: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with S3Server() as server, server.bucket() as bucket:
        for name, data in contents_of(older.folder).items():
            bucket.client.put_object(Bucket=bucket.name, Key=f"saju/{name}", Body=data)
        for key, value in settings_of(bucket, older).items():
            monkeypatch.setenv(key, value)
        for uri in (bucket.uri, f"{older.folder},{bucket.uri}"):
            monkeypatch.setenv("BACKUP_URI", uri)
            runner = CliRunner()
            said = runner.invoke(main, ["seal"])
            assert said.exit_code == 0, said.output
            assert "5 manifests read whole and sealed" in said.output
            for command in (RESTORE_DUMP, RESTORE_LOGS, VERIFY):
                said = runner.invoke(main, list(command))
                assert said.exit_code == 0, said.output
        assert len([n for n in bucket.objects() if "/seals/" in n]) == 2


def settings_of(bucket: Bucket, service: Service) -> dict[str, str]:
    return {
        "DATABASE_URL": service.url, "BACKUP_SEAL_KEY": KEY, "S3_ENDPOINT_URL": bucket.proxy.url,
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
    }  # fmt: skip


def test_what_is_not_sealed_is_copied_to_no_other_store(service: Service, tmp_path: Path) -> None:
    forged = service.manifests("database")[0]
    forge(forged)
    (tmp_path / "two").mkdir()
    storage = open_storage(f"{service.folder},{tmp_path / 'two'}", seals=Seals((KEY,)))
    copied = storage.complete("database/")
    assert len(copied) == 4
    assert not any(forged.name.split(".")[0] in name for name in copied)


def test_a_restore_reads_the_sealed_copy_where_the_other_was_changed(service: Service, tmp_path: Path) -> None:
    two = Path(shutil.copytree(service.folder, tmp_path / "two"))
    for path in service.manifests():
        forge(path, proven=False)
    storage = open_storage(f"{service.folder},{two}", reading=True, seals=Seals((KEY,)))
    assert [m.proven for m in backups(storage, "database_dump")] == [True] * 3


# --- the seal itself ----------------------------------------------------------------------------------------------


def test_a_key_is_derived_once_and_is_named_without_saying_anything_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    scrypt = seals_module.scrypt
    monkeypatch.setattr(seals_module, "scrypt", lambda *a, **k: calls.append(1) or scrypt(*a, **k))
    derived.cache_clear()
    data = sealed({"a": 1}, "x", Seals((KEY,)))
    assert data == sealed({"a": 1}, "x", Seals((KEY,)))
    assert len(calls) == 1
    assert KEY not in repr(Seals((KEY,)))
    assert derived(KEY).id != derived(OTHER).id


def test_an_older_version_finds_the_plain_sum_that_it_looks_for() -> None:
    whole = json.loads(sealed({"a": "가"}, "x", Seals((KEY,))))
    assert require_seal(json.dumps(whole).encode(), "x") == {"a": "가"}
    digest = whole.pop("manifest_sha256")
    assert digest == seals_module._digest(whole)


def test_verify_reads_an_unsealed_backup_all_the_same_and_finds_its_rot(service: Service) -> None:
    path = service.manifests("database")[0]
    forge(path)
    file = path.with_name(path.name.replace(".manifest.json", ".sqlite.gz"))
    result = verify(service.store(KEY), now=NOW, zone=KST)
    assert (len(result.unsealed), result.rot, result.files_checked, result.passed) == (1, [], 5, False)
    file.write_bytes(b"rot")
    result = verify(service.store(KEY), now=NOW, zone=KST)
    assert (len(result.rot), result.passed) == (1, False)
