"""With ARCHIVE_PASSWORD an archive is an encrypted zip, proven, purged and restored like any other."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import pyzipper

from saju_ops.archive.verify import verify_part
from saju_ops.errors import ProofFailed
from saju_ops.rows.csvfile import Compression
from saju_ops.storage.encryption import METHOD, WrongPassword
from saju_ops.storage.open import open_storage
from saju_ops_tests.archive.scene import DAY, SECRET, Scene

PASSWORD = "correct horse battery"


def scene_at(url: str, tmp_path: Path, password: str | None = PASSWORD) -> Scene:
    scene = Scene(url, tmp_path / "backups").create_table()
    scene.storage = open_storage(str(scene.folder), password)
    return scene


def with_password(scene: Scene, password: str | None) -> None:
    scene.storage = open_storage(str(scene.folder), password)


@pytest.mark.long
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_archive_purge_and_restore_give_back_every_cell(
    database_url: str, tmp_path: Path, compression: Compression
) -> None:
    scene = scene_at(database_url, tmp_path)
    scene.add(500, content=SECRET)
    before = scene.state()
    assert scene.archive(compression=compression).outcome == "archived"
    file = scene.data_file()
    assert file.name == "conversation_log_backup_20261001.csv.zip"
    assert SECRET.encode() not in file.read_bytes()
    (manifest,) = scene.files().parts
    assert (manifest.encryption, manifest.compression) == (METHOD, compression)
    assert scene.archive(compression=compression).outcome == "unchanged"
    assert scene.purge().deleted == 500
    assert scene.restore().written == 500
    assert scene.state() == before


def test_another_tool_reads_the_same_rows_from_the_zip(sqlite_url: str, tmp_path: Path) -> None:
    scene = scene_at(sqlite_url, tmp_path)
    scene.add(50, content='쉼표, "따옴표"\n줄')
    scene.archive(compression="gzip")
    with pyzipper.AESZipFile(scene.data_file()) as file:
        assert file.namelist() == ["conversation_log_backup_20261001.csv"]
        content = file.read(file.namelist()[0], pwd=PASSWORD.encode()).decode("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(content, newline="")))
    assert len(rows) == 50
    assert {row["content"] for row in rows} == {'쉼표, "따옴표"\n줄'}


@pytest.mark.long
@pytest.mark.parametrize("password", [None, "another long password"])
def test_without_the_right_password_nothing_is_deleted_and_the_sentence_says_so(
    database_url: str, tmp_path: Path, password: str | None
) -> None:
    scene = scene_at(database_url, tmp_path)
    scene.add(100)
    scene.archive()
    with_password(scene, password)
    result = scene.purge()
    assert result.deleted == 0
    assert len(result.problems) == 1
    assert "ARCHIVE_PASSWORD is not" in result.problems[0]
    assert scene.count() == 100
    for work in (scene.archive, scene.restore, lambda: verify_part(scene.storage, scene.files().parts[0])):
        with pytest.raises(WrongPassword, match=r"conversation_log_backup_20261001.*ARCHIVE_PASSWORD is not"):
            work()


@pytest.mark.long
def test_old_parts_stay_readable_and_new_ones_are_encrypted(database_url: str, tmp_path: Path) -> None:
    scene = scene_at(database_url, tmp_path, None)
    scene.add(100)
    scene.archive(compression="gzip")
    with_password(scene, PASSWORD)
    scene.add(7, first=1_000)
    before = scene.state()
    assert scene.archive(compression="gzip").outcome == "archived"
    assert [p.name for p in (scene.data_file(), scene.data_file(part=2))] == [
        "conversation_log_backup_20261001.csv.gz",
        "conversation_log_backup_20261001.part2.csv.zip",
    ]
    assert scene.purge().deleted == 107
    scene.restore()
    assert scene.state() == before


def test_a_file_left_without_its_manifest_is_adopted_with_the_password_alone(sqlite_url: str, tmp_path: Path) -> None:
    scene = scene_at(sqlite_url, tmp_path)
    scene.add(100)
    scene.archive()
    file, manifest = scene.data_file(), scene.manifest_file()
    stored = file.read_bytes()
    manifest.unlink()
    with_password(scene, "another long password")
    assert scene.archive().outcome == "archived"
    assert scene.files().strays == ("conversation_logs/2026/10/conversation_log_backup_20261001.csv.zip",)
    for each in (scene.data_file(part=2), scene.manifest_file(part=2)):
        each.unlink()
    with_password(scene, PASSWORD)
    assert scene.archive().outcome == "archived"
    assert scene.parts() == [100]
    assert file.read_bytes() == stored


def test_rot_in_an_encrypted_archive_is_found_and_nothing_is_deleted(sqlite_url: str, tmp_path: Path) -> None:
    scene = scene_at(sqlite_url, tmp_path)
    scene.add(100)
    scene.archive()
    file = scene.data_file()
    whole = file.read_bytes()
    for damaged in (whole[:-1], whole[:-30], whole[: len(whole) // 2], b"", whole + b"x", flip(whole)):
        file.write_bytes(damaged)
        assert scene.purge().deleted == 0
        with pytest.raises(ProofFailed, match="damaged"):
            verify_part(scene.storage, scene.files().parts[0])
    assert scene.count() == 100


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def test_a_manifest_that_names_another_encryption_is_not_believed(sqlite_url: str, tmp_path: Path) -> None:
    scene = scene_at(sqlite_url, tmp_path)
    scene.add(10)
    scene.archive()
    (manifest,) = scene.files().parts
    file = scene.manifest_file()
    file.write_bytes(replace(manifest, encryption="none").to_json())
    with pytest.raises(ProofFailed, match="damaged"):
        verify_part(scene.storage, scene.files().parts[0])
    raw = json.loads(manifest.to_json())
    file.write_text(json.dumps({**raw, "encryption": "rot13"}))
    with pytest.raises(ProofFailed, match="kind or format"):
        scene.files()


def test_archives_of_the_first_version_say_nothing_of_encryption_and_are_read(sqlite_url: str, tmp_path: Path) -> None:
    scene = scene_at(sqlite_url, tmp_path, None)
    scene.add(10)
    scene.archive()
    file = scene.manifest_file()
    raw = json.loads(file.read_text())
    del raw["encryption"]
    file.write_text(json.dumps(raw))
    assert scene.archive().outcome == "unchanged"
    assert str(DAY) == scene.files().parts[0].day
