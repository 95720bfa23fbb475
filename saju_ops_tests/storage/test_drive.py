"""Google Drive as storage: whole or not at all, never over anything, and uploads that go on where they broke."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from saju_ops.storage.drive.address import DriveOptions
from saju_ops.storage.drive.store import DriveStorage
from saju_ops.storage.drive.writer import _DriveWriter
from saju_ops.storage.open import AlreadyThere, StorageError, open_storage
from saju_ops_tests.fakes.drive import FOLDER, QUANTUM, ROOT, DriveServer
from saju_ops_tests.fakes.proxy import FaultProxy

NAME = "conversation_logs/2026/10/a.csv"
CHUNK = 2 * QUANTUM
SMALL, LARGE = os.urandom(1_000), os.urandom(3 * CHUNK + 12_345)
SIZES = {"empty": b"", "small": SMALL, "large": LARGE, "one chunk": os.urandom(CHUNK), "two chunks": LARGE[: 2 * CHUNK]}


class Scene:
    def __init__(self, server: DriveServer, proxy: FaultProxy, key: Path) -> None:
        self.server, self.proxy, self.key = server, proxy, key
        self.waits: list[float] = []
        self.storage = self.open()

    def open(self, read_seconds: float = 20.0) -> DriveStorage:
        options = DriveOptions(str(self.key), self.proxy.url, CHUNK, read_seconds)
        return DriveStorage(f"gdrive://{ROOT}", options, sleep=self.waits.append)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key is made once: it takes a tenth of a second. Its token server is put in by each test."""
    with DriveServer() as server:
        return server.key_file(tmp_path_factory.mktemp("key"))


@pytest.fixture
def scene(tmp_path: Path, key: Path) -> Iterator[Scene]:
    with DriveServer() as server, FaultProxy(server.port) as proxy:
        account = {**json.loads(key.read_text()), "token_uri": f"{server.url}/token"}
        mine = tmp_path / "account.json"
        mine.write_text(json.dumps(account))
        yield Scene(server, proxy, mine)


def put(storage: DriveStorage, name: str, data: bytes, *, read: bool = False) -> None:
    with storage.create(name) as writer:
        for start in range(0, len(data), 300_000):
            writer.write(data[start : start + 300_000])
        if read:
            with writer.read_back() as stream:
                assert stream.read() == data
        writer.commit()


@pytest.mark.long
@pytest.mark.parametrize("read", [True, False])
@pytest.mark.parametrize("data", SIZES.values(), ids=SIZES)
def test_what_was_committed_is_read_back(scene: Scene, data: bytes, read: bool) -> None:
    storage = scene.storage
    put(storage, NAME, data, read=read)
    assert scene.server.files() == {NAME: data}
    with storage.open(NAME) as stream:
        assert stream.read() == data
    assert (storage.exists(NAME), storage.size(NAME), list(storage.names(""))) == (True, len(data), [NAME])
    assert storage.location(NAME) == f"gdrive://{ROOT}/{NAME}"


def test_nothing_is_seen_before_the_commit_and_nothing_is_left_without_one(scene: Scene) -> None:
    for read in (True, False):
        with scene.storage.create(NAME) as writer:
            writer.write(LARGE)
            if read:
                writer.read_back().read()
            assert not scene.storage.exists(NAME)
            assert list(scene.storage.names("")) == []
        assert scene.server.files() == {}
        assert all(upload.done for upload in scene.server.uploads.values())


def test_a_name_that_exists_is_never_written_again(scene: Scene) -> None:
    put(scene.storage, NAME, SMALL)
    with pytest.raises(AlreadyThere, match="not overwritten"):
        put(scene.storage, NAME, b"two")
    with scene.storage.create("b") as one, scene.storage.create("b") as two:
        one.write(b"one")
        two.write(b"two")
        two.commit()
        with pytest.raises(AlreadyThere):
            one.commit()
    assert scene.server.files() == {NAME: SMALL, "b": b"two"}


def test_a_file_of_the_same_name_that_appears_during_the_commit_stays_alone(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scene.storage.create("b") as writer:
        writer.write(b"mine")
        request = scene.storage.request

        def race(method: str, *args: Any, **more: Any) -> Any:
            if method == "PATCH" and "b" not in scene.server.files():
                scene.server.make("b", data=b"theirs")
            return request(method, *args, **more)

        monkeypatch.setattr(scene.storage, "request", race)
        with pytest.raises(AlreadyThere):
            writer.commit()
    assert scene.server.files() == {"b": b"theirs"}


def test_of_two_files_and_folders_of_one_name_the_oldest_counts(scene: Scene) -> None:
    first, second = scene.server.make("d", mime=FOLDER), scene.server.make("d", mime=FOLDER)
    scene.server.make("x", second.id, data=b"young")
    scene.server.make("y", second.id, data=b"in the other")
    scene.server.make("x", first.id, data=b"younger")
    with scene.storage.open("d/x") as stream:
        assert stream.read() == b"young"
    assert list(scene.storage.names("d/")) == ["d/x", "d/y"]
    put(scene.storage, "d/z", b"new")
    assert next(e for e in scene.server.entries.values() if e.name == "z").parent == first.id
    scene.storage.delete("d/x")
    assert "d/x" not in scene.server.files()


def test_names_are_sorted_over_all_pages_and_only_those_with_the_prefix(scene: Scene) -> None:
    for name in ("b/2", "b/1", "a/1", "bb", "b/c/3", "it's \\ here", *(f"many/{n:02}" for n in range(11))):
        put(scene.storage, name, b"")
    assert list(scene.storage.names("b")) == ["b/1", "b/2", "b/c/3", "bb"]
    assert list(scene.storage.names("b/")) == ["b/1", "b/2", "b/c/3"]
    assert list(scene.storage.names("b/c")) == ["b/c/3"]
    assert len(list(scene.storage.names("many/"))) == 11
    assert scene.storage.exists("it's \\ here")
    assert list(scene.storage.names("nothing/")) == []
    assert not scene.storage.exists("B/1")


def test_what_a_killed_writer_left_is_invisible_and_cleared_by_its_prefix(scene: Scene) -> None:
    put(scene.storage, NAME, SMALL)
    folder = scene.server.entries[scene.storage._folder(("conversation_logs", "2026", "10"))].id
    for name in (".a.csv.0123.unfinished", ".b.csv.0123.unfinished"):
        scene.server.make(name, folder, data=b"x")
    assert list(scene.storage.names("")) == [NAME]
    assert scene.storage.clear_unfinished("conversation_logs/2026/10/a") == 1
    assert sorted(scene.server.files()) == ["conversation_logs/2026/10/.b.csv.0123.unfinished", NAME]


def test_deleted_files_are_trashed_where_only_managers_may_delete(scene: Scene) -> None:
    put(scene.storage, NAME, SMALL)
    scene.server.may_delete = False
    scene.storage.delete(NAME)
    scene.storage.delete(NAME)
    assert not scene.storage.exists(NAME)
    assert [e.name for e in scene.server.entries.values() if e.trashed] == ["a.csv"]
    with pytest.raises(FileNotFoundError):
        scene.storage.open(NAME)


# --- faults -----------------------------------------------------------------------------------------------


def refusal(reason: str) -> bytes:
    return json.dumps({"error": {"errors": [{"reason": reason}]}}).encode()


FAULTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "500": ("status", {"status": 500, "times": 2}),
    "503": ("status", {"status": 503, "times": 2}),
    "429": ("status", {"status": 429, "times": 2, "headers": {"Retry-After": "3"}}),
    "rate": ("status", {"status": 403, "body": refusal("userRateLimitExceeded")}),
    "reset": ("reset", {"times": 2}),
    "lost": ("lost", {}),
    "slow": ("slow", {"seconds": 0.6}),
}
PLACES = {
    "list": ("GET", r"/files\?"),
    "begin": ("POST", "uploadType=resumable"),
    "folder": ("POST", r"^/drive/v3/files"),
    "first chunk": ("PUT", "session"),
    "commit": ("PATCH", "files"),
    "read": ("GET", "alt=media"),
}


@pytest.mark.long
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("place", PLACES)
def test_a_fault_that_passes_costs_nothing(scene: Scene, place: str, fault: str) -> None:
    kind, more = FAULTS[fault]
    struck = scene.proxy.add(kind, *PLACES[place], **more)
    put(scene.open(0.4 if kind == "slow" else 20.0), NAME, LARGE, read=True)
    assert struck.struck == struck.times
    assert scene.server.files() == {NAME: LARGE}
    assert fault != "429" or 3.0 in scene.waits


@pytest.mark.parametrize("after", [1, 2, 3])
@pytest.mark.parametrize("kind", ["reset", "lost", "status"])
def test_an_upload_continues_where_it_broke(scene: Scene, kind: Any, after: int) -> None:
    scene.proxy.add(kind, "PUT", "session", after=after, status=503)
    put(scene.storage, NAME, LARGE)
    assert scene.server.files() == {NAME: LARGE}
    # One request more to ask what is there, and at most one chunk again.
    assert scene.proxy.count("PUT", "session") <= 6


def test_a_chunk_of_which_a_part_arrived_is_sent_on(scene: Scene) -> None:
    scene.server.keeps = QUANTUM
    put(scene.storage, NAME, LARGE)
    assert scene.server.files() == {NAME: LARGE}


@pytest.mark.parametrize("place", ["begin", "first chunk", "commit"])
def test_a_fault_that_stays_leaves_nothing_and_says_so(scene: Scene, place: str) -> None:
    scene.proxy.add("status", *PLACES[place], times=99, status=503)
    with pytest.raises(StorageError, match="503"):
        put(scene.storage, NAME, LARGE)
    assert scene.server.files() == {}
    assert max(scene.waits) <= 33


@pytest.mark.parametrize("kind", ["short", "reset", "lost", "slow", "status"])
def test_reading_continues_where_it_broke(scene: Scene, kind: Any) -> None:
    put(scene.storage, NAME, LARGE)
    scene.proxy.add(kind, "GET", "alt=media", times=3, status=503, seconds=0.6 if kind == "slow" else 0)
    with scene.open(0.4 if kind == "slow" else 20.0).open(NAME) as stream:
        assert stream.read() == LARGE


def test_a_body_that_is_always_short_is_an_error_and_never_the_end(scene: Scene) -> None:
    put(scene.storage, NAME, LARGE)
    scene.proxy.add("short", "GET", "alt=media", times=10_000)
    with scene.storage.open(NAME) as stream, pytest.raises(StorageError, match="connection broke"):
        stream.read()


def test_bytes_that_were_stored_other_than_written_are_no_backup(scene: Scene) -> None:
    for checksums in (True, False):
        scene.server.checksums = checksums
        finish = _DriveWriter._finish
        with scene.storage.create(NAME) as writer:
            writer.write(SMALL)
            entry = finish(writer)
            scene.server.entries[entry["id"]].data = b"x" + SMALL[1:]
            if checksums:
                entry["sha256Checksum"] = "0" * 64
            with pytest.raises(StorageError, match="differs"):
                writer.commit()
        assert scene.server.files() == {}


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        (403, "storageQuotaExceeded", "shared drive"),
        (403, "insufficientFilePermissions", "content manager"),
        (404, "notFound", "shared with the service account"),
        (403, "accessNotConfigured", "API is not enabled"),
        (403, "dailyLimitExceeded", "tomorrow"),
    ],
)
def test_refusals_are_said_in_words(scene: Scene, status: int, reason: str, words: str) -> None:
    scene.proxy.add("status", "POST", status=status, body=refusal(reason), times=9)
    with pytest.raises(StorageError, match=words):
        put(scene.storage, NAME, SMALL)


def test_a_wrong_folder_and_wrong_credentials_are_said(scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="shared with the service account"):
        list(DriveStorage("gdrive://no-such-folder", scene.storage.options).names(""))
    for text in ("{}", "no json"):
        wrong = tmp_path / "wrong.json"
        wrong.write_text(text)
        storage = open_storage(f"gdrive://{ROOT}", drive=DriveOptions(str(wrong), scene.proxy.url))
        with pytest.raises(StorageError, match="GOOGLE_APPLICATION_CREDENTIALS"):
            list(storage.names(""))


def test_the_address_of_the_upload_and_the_token_are_in_no_message(scene: Scene) -> None:
    scene.proxy.add("reset", "PUT", "session", times=99)
    with pytest.raises(StorageError) as raised:
        put(scene.storage, NAME, LARGE)
    shown = "".join(traceback.format_exception(raised.value))
    assert "upload_id" not in shown
    assert "the-token" not in shown


@pytest.mark.parametrize("place", ["everything", *PLACES])
@pytest.mark.parametrize("status", [200, 302])
def test_a_page_of_something_in_between_is_said_and_never_taken_for_an_answer(
    scene: Scene, place: str, status: int
) -> None:
    scene.proxy.add("status", *PLACES.get(place, ()), status=status, body=b"<html>Log in</html>", times=9_999)
    with pytest.raises(StorageError):
        put(scene.storage, NAME, LARGE, read=True)
    scene.proxy.faults.clear()
    assert scene.server.files() == {}


def test_a_document_of_googles_own_is_an_empty_file(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    document = scene.server.make("notes", mime="application/vnd.google-apps.document")
    shown = {k: v for k, v in document.shown().items() if k not in ("size", "sha256Checksum")}
    monkeypatch.setattr(document, "shown", lambda: shown)
    assert scene.storage.size("notes") == 0
    with scene.storage.open("notes") as stream:
        assert stream.read() == b""
