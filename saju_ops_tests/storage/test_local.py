"""The local folder as storage: a name exists whole or not at all, and is never written twice."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from saju_ops.storage.local import LinkFound, LocalStorage
from saju_ops.storage.open import AlreadyThere, StorageError, open_storage

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


class Disk:
    """What would remain after a loss of power, as the calls that put it there, in their order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.did: list[str] = []
        for call in ("fsync", "fdatasync"):
            monkeypatch.setattr(os, call, partial(self._synced, getattr(os, call)))
        link, unlink = os.link, Path.unlink
        monkeypatch.setattr(os, "link", lambda old, new: (self.did.append("named"), link(old, new)))
        monkeypatch.setattr(Path, "unlink", lambda path, **more: (self.did.append("unlinked"), unlink(path, **more)))

    def _synced(self, call: Callable[[int], None], descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        what = f"folder {path.name}" if path.is_dir() else f"{path.stat().st_size} bytes"
        call(descriptor)
        self.did.append(what)


def test_bytes_then_name_then_folder_are_on_the_disk_when_a_write_ends(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.root.mkdir()
    disk = Disk(monkeypatch)
    put(storage, "a/b/c.csv", b"12345")
    assert disk.did == ["folder backups", "folder a", "5 bytes", "named", "folder b", "unlinked"]


def test_what_is_read_back_is_on_the_disk(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.root.mkdir()
    disk = Disk(monkeypatch)
    with storage.create("c.csv") as writer:
        writer.write(b"12345")
        with writer.read_back() as stream:
            assert (stream.read(), disk.did) == (b"12345", ["5 bytes"])
    disk.did.clear()
    with storage.create("d.csv") as writer:
        writer.write(b"123456")
        writer.end()
        with writer.follow() as stream:
            assert (stream.read(), disk.did) == (b"123456", ["6 bytes"])


def test_what_is_deleted_is_gone_from_the_disk_too(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a manifest could come back after a loss of power, and its file not."""
    put(storage, "a/c.csv", b"1")
    disk = Disk(monkeypatch)
    storage.delete("a/c.csv")
    assert disk.did == ["unlinked", "folder a"]


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


def test_a_file_system_that_knows_no_rights_is_written_too(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAT shows the same rights for every file, and refuses to change them."""
    for name in ("os.chmod", "os.fchmod", "pathlib.Path.chmod"):
        monkeypatch.setattr(name, no_links)
    put(storage, NAME, b"one")
    assert list(storage.names("")) == [NAME]


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


# --- what a file system can do ----------------------------------------------------------------------------


@pytest.mark.parametrize("inside", [True, False])
def test_nothing_is_listed_read_written_or_deleted_through_a_link(
    storage: LocalStorage, tmp_path: Path, inside: bool
) -> None:
    put(storage, NAME, b"one")
    put(storage, "b.csv", b"two")
    year = storage.root / "conversation_logs" / "2026"
    other = storage.root / "elsewhere" if inside else tmp_path / "another disk"
    year.rename(other)
    year.symlink_to(other)
    (other / "round").symlink_to(storage.root)
    (storage.root / "file").symlink_to(storage.root / "b.csv")
    mine = ["elsewhere/10/a.csv", "elsewhere/round"] if inside else []
    assert list(storage.names("")) == ["b.csv", "conversation_logs/2026", *mine, "file"]
    assert list(storage.names("conversation_logs/")) == ["conversation_logs/2026"]
    for work in (
        lambda: list(storage.names("conversation_logs/2026/10/a")), lambda: storage.open(NAME),
        lambda: storage.open("file"), lambda: storage.size(NAME), lambda: storage.exists(NAME),
        lambda: storage.delete(NAME), lambda: put(storage, "conversation_logs/2026/10/new.csv", b"x"),
        lambda: storage.clear_unfinished("conversation_logs/2026/10/a"),
    ):  # fmt: skip
        with pytest.raises(LinkFound, match="links inside a store are not followed"):
            work()
    assert [p.name for p in (other / "10").iterdir()] == ["a.csv"]
    # A link's own name is taken, and it is the link that is deleted.
    with pytest.raises(AlreadyThere):
        put(storage, "file", b"x")
    storage.delete("file")
    assert (storage.root / "b.csv").read_bytes() == b"two"


def test_the_stores_own_folder_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    storage = LocalStorage(tmp_path / "link")
    put(storage, NAME, b"one")
    assert list(storage.names("")) == [NAME]
    storage.delete(NAME)
    assert list(storage.names("")) == []


AS_NOBODY = """
import os, sys
from pathlib import Path
from saju_ops.storage.open import StorageError
from saju_ops.storage.local import LocalStorage
if os.geteuid() == 0:
    os.setuid(65534)
storage = LocalStorage(Path(sys.argv[1]))
for work in (lambda: list(storage.names("")), lambda: list(storage.names("conversation_logs/2026/10/a")),
             lambda: storage.exists("conversation_logs/2026/10/a.csv"), lambda: storage.create("x").__enter__(),
             lambda: storage.open("conversation_logs/2026/10/a.csv"), lambda: storage.delete("readable")):
    try:
        print(work())
    except Exception as error:
        print(isinstance(error, StorageError), error)
"""


def test_a_folder_that_cannot_be_read_is_never_taken_for_an_empty_one() -> None:
    # Not pytest's folder, which nobody but its owner may enter.
    with shared_folder() as root:
        storage = LocalStorage(root)
        put(storage, NAME, b"one")
        put(storage, "readable", b"two")
        (root / "lost+found").mkdir(mode=0)
        assert list(storage.names("")) == [NAME, "readable"]
        (root / "conversation_logs").chmod(0)
        root.chmod(0o555)
        command = [sys.executable, "-c", AS_NOBODY, str(root)]
        done = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        for folder in (root, root / "conversation_logs"):
            folder.chmod(0o700)
    assert len(done) == 6
    for line in done:
        assert line.startswith("True"), line
        assert "Permission denied" in line


@contextmanager
def shared_folder() -> Iterator[Path]:
    import tempfile

    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder) / "backups"


@pytest.mark.parametrize("work", ["list", "write"])
def test_a_link_to_nothing_and_a_file_are_no_empty_folders(tmp_path: Path, work: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "unmounted")
    (tmp_path / "file").write_text("x")
    for name, words in (("link", "is its disk mounted"), ("file", "(?i)not a (folder|directory)")):
        for root in (tmp_path / name, tmp_path / name / "below"):
            storage = LocalStorage(root)
            with pytest.raises(StorageError, match=words):
                list(storage.names("")) if work == "list" else put(storage, NAME, b"one")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "link"]
    assert list(LocalStorage(tmp_path / "not" / "made" / "yet").names("")) == []


@pytest.mark.parametrize("umask", [0o000, 0o177, 0o777])
def test_files_are_for_their_owner_alone_whatever_the_umask(storage: LocalStorage, umask: int) -> None:
    before = os.umask(umask)
    try:
        put(storage, NAME, b"one")
    finally:
        os.umask(before)
    for path in [storage.root, *storage.root.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


FULL = """
import resource, signal, sys
from pathlib import Path
from saju_ops.errors import OperatorError
from saju_ops.storage.local import LocalStorage
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))
storage, size = LocalStorage(Path(sys.argv[1])), int(sys.argv[2])
try:
    with storage.create("a/b") as writer:
        for _ in range(size // 10_000):
            writer.write(b"x" * 10_000)
        writer.end() if sys.argv[3] == "end" else writer.read_back() if sys.argv[3] == "read" else writer.commit()
except OperatorError as error:
    print(error)
"""


@pytest.mark.parametrize("last", ["end", "read", "commit"])
@pytest.mark.parametrize("size", [3_010_000, 9_000_000], ids=["full at the end", "full in the middle"])
def test_a_full_disk_is_said_in_a_sentence_and_leaves_nothing(storage: LocalStorage, size: int, last: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(storage.root), str(size), last], check=True, capture_output=True, text=True
    )
    assert f"{storage.root}/a/b can't be written ({os.strerror(errno.EFBIG)})" in done.stdout
    assert all_files(storage) == []


RACE = """
import os, sys
from pathlib import Path
from saju_ops.storage.open import AlreadyThere
from saju_ops.storage.local import LocalStorage

storage = LocalStorage(Path(sys.argv[1]))
for number in range(40):
    children = []
    for letter in b"abcd":
        child = os.fork()
        if not child:
            code = 2
            try:
                with storage.create(f"a{number}/b/c/d") as writer:
                    writer.write(bytes([letter]) * 9_000)
                    writer.commit()
                code = 0
            except AlreadyThere:
                code = 1
            finally:
                os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert sorted(codes) == [0, 1, 1, 1], codes
    assert (storage.root / f"a{number}/b/c/d").read_bytes() == bytes([b"abcd"[codes.index(0)]]) * 9_000
"""


def test_of_processes_that_write_one_name_at_once_one_wins_and_the_others_say_so(storage: LocalStorage) -> None:
    subprocess.run([sys.executable, "-c", RACE, str(storage.root)], check=True)
    assert len(all_files(storage)) == 40
