"""Two stores at once: a backup counts once it is in both, and a missing copy is made by the next run."""

from __future__ import annotations

import io
import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from saju_ops.storage.local import LocalStorage, _LocalWriter
from saju_ops.storage.mirrored.store import MirroredStorage
from saju_ops.storage.open import AlreadyThere, StorageError, open_storage
from saju_ops.storage.seal import sealed

FILE, MANIFEST = "database/app_1.sql.gz", "database/app_1.manifest.json"
DATA = b"a dump" * 1_000


class Unreliable(LocalStorage):
    """A folder that is down on request."""

    broken: set[str] = frozenset()  # type: ignore[assignment]

    def __getattribute__(self, name: str) -> Any:
        if name in object.__getattribute__(self, "broken"):
            raise OSError(5, "Input/output error")
        return super().__getattribute__(name)


EVERYTHING = {"create", "open", "exists", "size", "names", "clear_unfinished", "delete", "copies"}


class Pair:
    def __init__(self, folder: Path) -> None:
        self.one, self.two = Unreliable(folder / "one"), Unreliable(folder / "two")

    def open(self, *, reading: bool = False) -> MirroredStorage:
        return MirroredStorage([self.one, self.two], reading=reading)

    def files(self) -> tuple[list[str], list[str]]:
        one, two = ([p for p in s.root.rglob("*") if p.is_file()] for s in (self.one, self.two))
        return (
            sorted(p.relative_to(self.one.root).as_posix() for p in one),
            sorted(p.relative_to(self.two.root).as_posix() for p in two),
        )


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def put(storage: Any, name: str, data: bytes) -> None:
    with storage.create(name) as writer:
        writer.write(data)
        with writer.read_back() as stream:
            assert stream.read() == data
        writer.commit()


def manifest(data: bytes = DATA) -> bytes:
    return json.dumps({"file": FILE, "stored_sha256": sha256(data).hexdigest(), "stored_bytes": len(data)}).encode()


def back_up(storage: MirroredStorage, data: bytes = DATA) -> None:
    """As a run does it: complete, write the file, write the manifest, and look whether all is well."""
    storage.clear_unfinished("database/app_1")
    storage.complete("database/app_1")
    put(storage, FILE, data)
    put(storage, MANIFEST, manifest(data))
    storage.require_all()


BOTH = ([MANIFEST, FILE], [MANIFEST, FILE])


def test_what_is_written_is_in_both_and_read_from_either(pair: Pair) -> None:
    storage = pair.open()
    back_up(storage)
    assert pair.files() == BOTH
    assert list(storage.names("")) == [MANIFEST, FILE]
    assert [copy.uri for copy in storage.copies()] == [pair.one.uri, pair.two.uri]
    with storage.open(FILE) as stream:
        assert stream.read() == DATA
    assert (storage.size(FILE), storage.exists(FILE)) == (len(DATA), True)
    assert str(pair.one.root) in storage.location(FILE)
    assert str(pair.two.root) in storage.location(FILE)
    storage.delete(FILE)
    assert pair.files() == ([MANIFEST], [MANIFEST])


def test_a_name_that_is_in_one_of_them_is_not_written_again(pair: Pair) -> None:
    put(pair.two, FILE, b"other")
    with pytest.raises(AlreadyThere):
        put(pair.open(), FILE, DATA)
    assert pair.files() == ([], [FILE])


def test_a_backup_in_one_of_them_does_not_count_and_its_file_is_reported(pair: Pair) -> None:
    put(pair.one, FILE, DATA)
    put(pair.one, MANIFEST, manifest())
    assert list(pair.open().names("database/")) == [FILE]
    assert list(pair.open(reading=True).names("database/")) == [MANIFEST, FILE]


@pytest.mark.parametrize("which", ["one", "two"])
@pytest.mark.parametrize("broken", [EVERYTHING, {"create"}], ids=["all of it", "writing"])
def test_a_store_that_is_down_fails_the_run_and_the_next_one_completes_the_copy(
    pair: Pair, which: str, broken: set[str]
) -> None:
    down, up = getattr(pair, which), pair.two if which == "one" else pair.one
    down.broken = broken
    with pytest.raises(StorageError) as raised:
        back_up(pair.open())
    assert f"is in {up.uri} alone" in str(raised.value)
    assert f"{down.uri}: Input/output error" in str(raised.value)
    down.broken = set()
    assert sorted(map(len, pair.files())) == [0, 2]
    assert MANIFEST not in list(pair.open().names(""))
    storage = pair.open()
    assert storage.complete("database/app_1") == [FILE, MANIFEST]
    storage.require_all()
    assert pair.files() == BOTH
    assert (down.root / FILE).read_bytes() == DATA
    assert pair.open().complete("database/app_1") == []


def test_a_store_that_breaks_in_the_middle_of_a_file_keeps_nothing_of_it(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = _LocalWriter.write

    def breaks(self: _LocalWriter, data: bytes | memoryview) -> int:
        if self._path.is_relative_to(pair.two.root):
            raise OSError(28, "No space left on device")
        return write(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(_LocalWriter, "write", breaks)
        with pytest.raises(StorageError, match="No space left"):
            back_up(pair.open())
    assert pair.files() == ([MANIFEST, FILE], [])
    pair.open().complete("")
    assert pair.files() == BOTH


def test_a_purge_that_completes_nothing_is_refused_while_one_is_down(pair: Pair) -> None:
    back_up(pair.open())
    pair.two.broken = EVERYTHING
    with pytest.raises(StorageError, match="counts only once it is in both"):
        list(pair.open().names(""))


@pytest.mark.parametrize("which", ["one", "two"])
def test_a_restore_works_with_either_store_alone(pair: Pair, which: str) -> None:
    back_up(pair.open())
    getattr(pair, which).broken = EVERYTHING
    storage = pair.open(reading=True)
    assert list(storage.names("")) == [MANIFEST, FILE]
    with storage.open(FILE) as stream:
        assert stream.read() == DATA


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
@pytest.mark.parametrize("what", [FILE, MANIFEST])
def test_a_restore_reads_the_good_copy_where_the_other_is_damaged(
    pair: Pair, which: int, damage: str, what: str
) -> None:
    content = {"file": FILE, "stored_sha256": sha256(DATA).hexdigest(), "stored_bytes": len(DATA)}
    storage = pair.open()
    put(storage, FILE, DATA)
    put(storage, MANIFEST, sealed(content))
    file = (pair.one, pair.two)[which].root / what
    whole = file.read_bytes()
    # The flipped one stays JSON, and says another size.
    flipped = whole.replace(b"6000", b"6100") if what == MANIFEST else b"A" + whole[1:]
    file.write_bytes({"cut": whole[:-9], "flipped": flipped, "gone": b""}[damage])
    if damage == "gone":
        file.unlink()
    reading = pair.open(reading=True)
    for name, right in ((FILE, DATA), (MANIFEST, sealed(content))):
        with reading.open(name) as stream:
            assert stream.read() == right
    assert reading.location(what) == (pair.two, pair.one)[which].location(what)


def test_where_both_copies_are_damaged_the_file_is_read_all_the_same(pair: Pair) -> None:
    """A reader compares it and says what is wrong."""
    back_up(pair.open())
    for store in (pair.one, pair.two):
        (store.root / FILE).write_bytes(b"cut")
    with pair.open(reading=True).open(FILE) as stream:
        assert stream.read() == b"cut"


def test_both_down_is_said_of_both(pair: Pair) -> None:
    pair.one.broken = pair.two.broken = EVERYTHING
    for storage in (pair.open(reading=True), pair.open()):
        with pytest.raises(StorageError, match=r"Input/output error"):
            back_up(storage)


def test_a_damaged_copy_is_not_copied(pair: Pair) -> None:
    put(pair.one, FILE, DATA[:-1] + b"x")
    put(pair.one, MANIFEST, manifest())
    with pytest.raises(StorageError, match="missing or damaged"):
        pair.open().complete("")
    assert pair.files()[1] == []


def test_another_file_of_the_same_name_is_never_taken_for_the_copy(pair: Pair) -> None:
    put(pair.one, FILE, DATA)
    put(pair.one, MANIFEST, manifest())
    put(pair.two, FILE, b"other")
    with pytest.raises(StorageError, match="is another file"):
        pair.open().complete("")
    assert pair.files()[1] == [FILE]


def test_a_copy_that_was_broken_off_before_its_manifest_is_finished(pair: Pair) -> None:
    put(pair.one, FILE, DATA)
    put(pair.one, MANIFEST, manifest())
    put(pair.two, FILE, DATA)
    assert pair.open().complete("") == [MANIFEST]
    assert pair.files() == BOTH


@pytest.mark.parametrize("which", [0, 1])
def test_a_file_that_one_of_them_has_lost_is_copied_again(pair: Pair, which: int) -> None:
    back_up(pair.open())
    ((pair.one, pair.two)[which].root / FILE).unlink()
    assert pair.open().complete("database/app_1") == [FILE]
    assert pair.files() == BOTH
    assert ((pair.one, pair.two)[which].root / FILE).read_bytes() == DATA


def test_a_lost_file_is_not_replaced_by_another_than_its_manifest_describes(pair: Pair) -> None:
    back_up(pair.open())
    (pair.two.root / FILE).unlink()
    (pair.one.root / FILE).write_bytes(DATA[:-1] + b"x")
    with pytest.raises(StorageError, match="missing or damaged"):
        pair.open().complete("")
    assert pair.files() == ([MANIFEST, FILE], [MANIFEST])


def test_a_backup_that_cannot_be_completed_keeps_no_other_from_it(pair: Pair) -> None:
    old = {"file": "database/app_0.sql.gz", "stored_sha256": "0" * 64, "stored_bytes": 4}
    put(pair.one, old["file"], b"rots")
    put(pair.one, "database/app_0.manifest.json", sealed(old))
    put(pair.one, FILE, DATA)
    put(pair.one, MANIFEST, manifest())
    with pytest.raises(StorageError, match=r"app_0\.sql\.gz is missing or damaged"):
        pair.open().complete("database/")
    assert pair.files()[1] == [MANIFEST, FILE]


def test_a_name_that_no_folder_can_have_keeps_no_backup_from_being_completed(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up(pair.open())
    (pair.two.root / MANIFEST).unlink()
    listed = LocalStorage.names

    def names(self: LocalStorage, prefix: str) -> list[str]:
        return [*listed(self, prefix), *(["database//x.manifest.json"] if self is pair.one else [])]

    monkeypatch.setattr(Unreliable, "names", names)
    assert pair.open().complete("database/") == [MANIFEST]


def let_the_second_rot(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    write = _LocalWriter.write

    def rots(self: _LocalWriter, data: bytes | memoryview) -> int:
        rotten = b"x" + bytes(data)[1:] if self._path.is_relative_to(pair.two.root) else data
        return write(self, rotten)

    monkeypatch.setattr(_LocalWriter, "write", rots)


def test_a_copy_that_completes_the_other_store_is_read_back(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    put(pair.one, FILE, DATA)
    put(pair.one, MANIFEST, manifest())
    let_the_second_rot(pair, monkeypatch)
    storage = pair.open()
    assert storage.complete("") == []
    assert pair.files() == ([MANIFEST, FILE], [])
    with pytest.raises(StorageError, match="differs"):
        storage.require_all()


def test_the_second_copy_is_read_back_too(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    let_the_second_rot(pair, monkeypatch)
    with pytest.raises(StorageError, match="differs"):
        back_up(pair.open())
    assert pair.files() == ([MANIFEST, FILE], [])


def test_two_addresses_of_one_place_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="twice"):
        open_storage(f"{tmp_path},{tmp_path}/")


class Breaking(io.BytesIO):
    """What a store gives back until it breaks: half of it, the last byte of that another one if it is `rotten`."""

    def __init__(self, data: bytes, rotten: bool) -> None:
        half = data[: len(data) // 2]
        super().__init__(half[:-1] + b"x" if rotten else half)

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        if not data:
            raise StorageError("the connection broke 6 times")
        return data


@pytest.mark.parametrize("rotten", [False, True])
def test_a_store_that_breaks_while_it_gives_back_what_was_written_is_left_aside(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, rotten: bool
) -> None:
    read_back = _LocalWriter.read_back

    def breaks(self: _LocalWriter) -> Any:
        stream = read_back(self)
        return Breaking(stream.read(), rotten) if self._path.is_relative_to(pair.one.root) else stream

    monkeypatch.setattr(_LocalWriter, "read_back", breaks)
    data = os.urandom(5_000_000)
    storage = pair.open()
    storage.complete("")
    if rotten:
        # What was handed out before the break is not what was written, and its reader relies on it.
        with pytest.raises(StorageError, match=r"the connection broke.*differs"):
            put(storage, FILE, data)
        assert pair.files() == ([], [])
        return
    put(storage, FILE, data)
    assert pair.files() == ([], [FILE])
    assert (pair.two.root / FILE).read_bytes() == data
    with pytest.raises(StorageError, match="the connection broke"):
        storage.require_all()


def test_a_copy_of_which_half_was_read_back_is_proven_whole(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    read_back, times = _LocalWriter.read_back, []

    def breaks(self: _LocalWriter) -> Any:
        stream = read_back(self)
        if self._path.is_relative_to(pair.one.root):
            return Breaking(stream.read(), False)
        times.append(self)
        # What was skipped the first time is what rots.
        return stream if len(times) > 1 else io.BytesIO(b"x" + stream.read()[1:])

    monkeypatch.setattr(_LocalWriter, "read_back", breaks)
    storage = pair.open()
    storage.complete("")
    put(storage, FILE, os.urandom(5_000_000))
    assert len(times) == 2
