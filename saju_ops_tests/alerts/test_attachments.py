"""The archive attached below its message, as SLACK_ATTACH says; and the outbox's own promises."""

from __future__ import annotations

import io
import stat
import zipfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from saju_ops.alerts.attachments import FILES, Files, is_encrypted, open_outbox
from saju_ops.alerts.outbox import KEPT, Outbox
from saju_ops.settings.load import load_settings
from saju_ops.storage.open import open_storage
from saju_ops_tests.alerts.scene import START, Scene, message
from saju_ops_tests.fakes.slack import FakeSlack

CSV = "conversation_logs/2026/10/conversation_log_backup_20261001.csv"
ZIP = f"{CSV}.zip"


@pytest.fixture
def fake() -> Iterator[FakeSlack]:
    with FakeSlack() as fake:
        yield fake


def encrypted_zip() -> bytes:
    import pyzipper

    out = io.BytesIO()
    with pyzipper.AESZipFile(out, "w", encryption=pyzipper.WZ_AES) as archive:
        archive.setpassword(b"archive-secret")
        archive.writestr("a.csv", "log_id,content\n1,secret words\n")
    return out.getvalue()


def open_zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.csv", "log_id\n1\n")
    return out.getvalue()


def store(folder: Path, name: str, content: bytes) -> None:
    path = folder / "backups" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def deliver(scene: Scene, folder: Path, *names: str, **settings: Any) -> None:
    files = Files(load_settings(**settings), lambda: open_storage(str(folder / "backups")))
    scene.add(message(1, files=names))
    scene.deliver(files=files.follow, open_file=files.open)


@pytest.mark.parametrize(
    ("mode", "name", "content", "attached"),
    [
        ("off", ZIP, encrypted_zip(), False),
        ("off", CSV, b"a,b", False),
        ("encrypted", ZIP, encrypted_zip(), True),
        ("encrypted", ZIP, open_zip(), False),
        ("encrypted", CSV, b"a,b", False),
        ("encrypted", ZIP, b"not a zip at all", False),
        ("encrypted", f"{CSV}.age", b"age-encryption.org/v1\n-> X25519", True),
        ("encrypted", f"{CSV}.age", b"a,b", False),
        ("always", CSV, b"a,b", True),
    ],
)
def test_a_file_is_attached_as_the_setting_says(
    tmp_path: Path, fake: FakeSlack, mode: str, name: str, content: bytes, attached: bool
) -> None:
    scene = Scene(tmp_path, fake)
    store(tmp_path, name, content)
    deliver(scene, tmp_path, name, SLACK_ATTACH=mode)
    assert [f.content for f in fake.files] == ([content] if attached else [])
    if attached:
        assert fake.files[0].thread_ts == fake.messages[0].ts
        assert fake.files[0].filename == Path(name).name
        assert fake.files[0].channel == fake.channels["ai-reports"]
    assert len(fake.messages) == 1


def test_for_a_file_beyond_the_limit_only_the_path_is_sent(tmp_path: Path, fake: FakeSlack) -> None:
    scene = Scene(tmp_path, fake)
    store(tmp_path, CSV, b"x" * 1_000_001)
    deliver(scene, tmp_path, CSV, SLACK_ATTACH="always", SLACK_ATTACH_MAX_MB=1)
    assert fake.files == []
    assert str(tmp_path / "backups" / CSV) in fake.messages[1].text
    assert fake.messages[1].thread_ts == fake.messages[0].ts


def test_a_file_that_is_gone_is_said(tmp_path: Path, fake: FakeSlack) -> None:
    deliver(Scene(tmp_path, fake), tmp_path, CSV, SLACK_ATTACH="always")
    assert "더 이상 없습니다" in fake.messages[1].text


def test_of_many_files_some_are_attached_and_the_rest_is_counted(tmp_path: Path, fake: FakeSlack) -> None:
    names = [CSV.replace("01.csv", f"{n:02}.csv") for n in range(1, 16)]
    for name in names:
        store(tmp_path, name, b"a,b")
    deliver(Scene(tmp_path, fake), tmp_path, *names, SLACK_ATTACH="always")
    assert len(fake.files) == FILES
    assert f"{15 - FILES}개가 더 있습니다" in fake.messages[-1].text


@pytest.mark.parametrize(
    ("method", "kind"),
    [("files.getUploadURLExternal", "500"), ("upload", "500"), ("files.completeUploadExternal", "429"),
     ("files.getUploadURLExternal", "ok:missing_scope")],
)  # fmt: skip
def test_an_upload_that_fails_holds_up_no_message_and_comes_later(
    tmp_path: Path, fake: FakeSlack, method: str, kind: str
) -> None:
    scene = Scene(tmp_path, fake)
    store(tmp_path, CSV, b"a,b")
    fake.fault(method, kind, times=2, retry_after=20)
    files = Files(load_settings(SLACK_ATTACH="always"), lambda: open_storage(str(tmp_path / "backups")))
    scene.add(message(1, files=(CSV,)), message(2))
    for _ in range(8):
        scene.deliver(files=files.follow, open_file=files.open)
        scene.later(minutes=3)
    assert len(fake.files) == 1
    texts = [m.text.splitlines()[0] for m in fake.messages if not m.thread_ts]
    assert texts == ["✅ *알림 1번*", "✅ *알림 2번*"]


def test_a_zip_of_which_one_member_is_open_is_not_encrypted() -> None:
    out = io.BytesIO(encrypted_zip())
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr("b.csv", "open")
    assert not is_encrypted(out.getvalue())
    assert is_encrypted(encrypted_zip())


# --- the outbox ----------------------------------------------------------------------------------------------------


def test_the_outbox_is_its_owners_alone(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "new" / "o.sqlite")
    assert stat.S_IMODE(outbox.path.stat().st_mode) == 0o600


def test_the_same_id_is_kept_once_and_a_delivered_message_stays_delivered(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.sqlite")
    assert outbox.add([message(1)], ["slack"], START) == 1
    outbox.delivered("slack", ["m1"], START)
    assert outbox.add([message(1)], ["slack", "email"], START) == 0
    assert outbox.waiting("slack") == outbox.waiting("email") == []


def test_old_messages_are_deleted_after_they_were_delivered_and_never_before(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.sqlite")
    outbox.add([message(1), message(2)], ["slack"], START)
    outbox.delivered("slack", ["m1"], START)
    outbox.prune(START + KEPT - timedelta(days=1))
    assert outbox.known(["m1", "m2"]) == {"m1", "m2"}
    outbox.prune(START + KEPT + timedelta(days=1))
    assert outbox.known(["m1", "m2"]) == {"m2"}
    assert [w.message.id for w in outbox.waiting("slack")] == ["m2"]


def test_a_channel_that_is_taken_out_leaves_nothing_waiting(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.sqlite")
    outbox.add([message(1)], ["slack", "email"], START)
    outbox.drop_channels(["slack"])
    assert outbox.waiting("email") == []
    assert len(outbox.waiting("slack")) == 1


def test_a_locked_outbox_is_not_taken_for_a_broken_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlite3

    from saju_ops.alerts import outbox as module

    monkeypatch.setattr(module, "BUSY_SECONDS", 0.1)
    outbox = open_outbox(tmp_path, START)
    with sqlite3.connect(outbox.path, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError):
            open_outbox(tmp_path, START)
        other.execute("ROLLBACK")
    assert list(tmp_path.glob("*.broken-*")) == []
