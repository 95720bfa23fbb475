"""The local folder as storage: a name exists whole or not at all, and is never written twice."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from saju_ops.storage import AlreadyThere, StorageError, open_storage
from saju_ops.storage.local import LocalStorage

NAME = "conversation_logs/2026/10/a.csv"


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "backups")


def put(storage: LocalStorage, name: str, data: bytes) -> None:
    with storage.create(name) as writer:
        writer.write(data)
        writer.commit()


def all_files(storage: LocalStorage) -> list[Path]:
    return [p for p in storage.root.rglob("*") if p.is_file()]


def test_what_was_committed_is_read_back(storage: LocalStorage) -> None:
    put(storage, NAME, b"one")
    with storage.open(NAME) as stream:
        assert stream.read() == b"one"
    assert storage.exists(NAME)
    assert storage.size(NAME) == 3
    assert list(storage.names("")) == [NAME]


def test_a_name_that_exists_is_never_written_again(storage: LocalStorage) -> None:
    put(storage, NAME, b"one")
    with pytest.raises(AlreadyThere, match="not overwritten"):
        put(storage, NAME, b"two")
    assert (storage.root / NAME).read_bytes() == b"one"
    assert len(all_files(storage)) == 1


def test_of_two_writers_of_one_name_the_first_to_commit_wins(storage: LocalStorage) -> None:
    with storage.create(NAME) as one, storage.create(NAME) as two:
        one.write(b"one")
        two.write(b"two")
        two.commit()
        with pytest.raises(AlreadyThere):
            one.commit()
    assert (storage.root / NAME).read_bytes() == b"two"


def test_nothing_is_seen_before_the_commit(storage: LocalStorage) -> None:
    with storage.create(NAME) as writer:
        writer.write(b"half")
        with writer.read_back() as stream:
            assert stream.read() == b"half"
        assert not storage.exists(NAME)
        assert list(storage.names("")) == []
        with pytest.raises(FileNotFoundError):
            storage.open(NAME)


def test_an_exception_leaves_no_temporary_file(storage: LocalStorage) -> None:
    def break_off() -> None:
        with storage.create(NAME) as writer:
            writer.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()
    assert all_files(storage) == []


def test_leaving_without_a_commit_leaves_nothing(storage: LocalStorage) -> None:
    with storage.create(NAME) as writer:
        writer.write(b"half")
    assert all_files(storage) == []


def test_what_a_killed_writer_left_is_invisible_and_cleared_by_its_prefix(storage: LocalStorage) -> None:
    put(storage, NAME, b"one")
    folder = (storage.root / NAME).parent
    mine, others = folder / ".a.csv.0123.unfinished", folder / ".b.csv.0123.unfinished"
    mine.write_bytes(b"x")
    others.write_bytes(b"x")
    assert list(storage.names("")) == [NAME]
    assert storage.clear_unfinished("conversation_logs/2026/10/a") == 1
    assert not mine.exists()
    assert others.exists()
    assert storage.exists(NAME)


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/etc/passwd", "", ".."])
def test_a_name_outside_the_folder_is_refused(storage: LocalStorage, name: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="not a name inside"):
        put(storage, name, b"x")
    assert not (tmp_path / "out").exists()


def test_files_are_for_their_owner_alone(storage: LocalStorage) -> None:
    put(storage, NAME, b"one")
    for path in storage.root.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert stat.S_IMODE(storage.root.stat().st_mode) == 0o700


def test_names_are_sorted_and_only_those_with_the_prefix(storage: LocalStorage) -> None:
    for name in ("b/2", "b/1", "a/1", "bb"):
        put(storage, name, b"")
    assert list(storage.names("b")) == ["b/1", "b/2", "bb"]
    assert list(storage.names("b/")) == ["b/1", "b/2"]
    assert list(storage.names("nothing/")) == []


def test_a_kind_of_storage_that_is_not_known_is_refused() -> None:
    with pytest.raises(StorageError, match="BACKUP_URI"):
        open_storage("ftp://somewhere/x")


def test_deleting_is_for_one_name_and_a_missing_one_is_fine(storage: LocalStorage) -> None:
    put(storage, NAME, b"one")
    put(storage, NAME + "x", b"two")
    storage.delete(NAME)
    storage.delete(NAME)
    storage.delete("no/such/folder")
    assert list(storage.names("")) == [NAME + "x"]


def no_links(*_: object, **__: object) -> None:
    raise PermissionError(1, "Operation not permitted")


def test_a_file_system_without_hard_links_still_never_overwrites(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.link", no_links)
    put(storage, NAME, b"one")
    with pytest.raises(AlreadyThere, match="not overwritten"):
        put(storage, NAME, b"two")
    assert (storage.root / NAME).read_bytes() == b"one"
    assert len(all_files(storage)) == 1


def test_a_file_system_that_can_only_overwrite_is_refused(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoRenameat2:
        def __init__(self, *_: object, **__: object) -> None:
            pass

    monkeypatch.setattr("os.link", no_links)
    monkeypatch.setattr("ctypes.CDLL", NoRenameat2)
    with pytest.raises(StorageError, match="neither hard links nor a rename that refuses to replace"):
        put(storage, NAME, b"one")
    assert all_files(storage) == []
