"""A stored snapshot that somebody altered, with a manifest that agrees: it is refused, and costs what it holds."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import resource
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from saju_ops.chroma import pack as chroma_pack
from saju_ops.chroma.pack import FOLDER, look_through, pack, unpack
from saju_ops.chroma.snapshot import Source, extract_snapshot, take_snapshot
from saju_ops.errors import OperatorError, ProofFailed
from saju_ops.storage.local import LocalStorage
from saju_ops.storage.manifest import backups, read_manifest, write_manifest
from saju_ops.upkeep.drills import archive_drill, snapshot_drill
from saju_ops.upkeep.verify import verify
from saju_ops_tests.chroma.scene import make_folder

KST = ZoneInfo("Asia/Seoul")
NOW = datetime(2026, 11, 21, 20, 0, tzinfo=UTC)
Build = Callable[[tarfile.TarFile], None]


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, **more: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    for key, value in more.items():
        setattr(info, key, value)
    return info


def folder(tar: tarfile.TarFile, *names: str) -> None:
    for name in names:
        tar.addfile(member(name, tarfile.DIRTYPE))


def add(tar: tarfile.TarFile, name: str, data: bytes = b"", **more: Any) -> None:
    tar.addfile(member(name, size=len(data), **more), io.BytesIO(data))


def raw(tar: tarfile.TarFile, *blocks: bytes) -> None:
    """Blocks that tarfile itself would not write."""
    assert tar.fileobj is not None
    for block in blocks:
        padded = block + bytes(-len(block) % 512)
        tar.fileobj.write(padded)
        tar.offset += len(padded)


def header(name: str, kind: bytes, size: int) -> bytes:
    return member(name, kind, size).tobuf(tarfile.USTAR_FORMAT)


def extended(tar: tarfile.TarFile, records: dict[str, str]) -> None:
    data = b"".join(record(key, value) for key, value in records.items())
    raw(tar, header("././@PaxHeader", tarfile.XHDTYPE, len(data)), data)


def record(key: str, value: str) -> bytes:
    body = f" {key}={value}\n".encode()
    length = len(body)
    while len(f"{length}".encode() + body) != length:
        length += 1
    return f"{length}".encode() + body


def old_sparse(tar: tarfile.TarFile) -> None:
    """200 MB of one hole, as GNU tar wrote them."""
    block = bytearray(header("chroma_db/holes", tarfile.GNUTYPE_SPARSE, 0))
    block[257:265] = b"ustar  \0"
    block[386:398] = b"%011o\0" % (200 << 20)
    block[398:410] = b"%011o\0" % 0
    block[483:495] = b"%011o\0" % (200 << 20)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    raw(tar, bytes(block))


def posix_sparse(tar: tarfile.TarFile) -> None:
    size = str(200 << 20)
    extended(tar, {"GNU.sparse.size": size, "GNU.sparse.numblocks": "1", "GNU.sparse.map": f"{size},0"})
    raw(tar, header("chroma_db/holes", tarfile.REGTYPE, 0))


def long_header(tar: tarfile.TarFile) -> None:
    raw(tar, header("././@PaxHeader", tarfile.XHDTYPE, 64 << 20))
    raw(tar, *[bytes(1 << 20)] * 64)


def long_name(tar: tarfile.TarFile) -> None:
    raw(tar, header("././@LongLink", tarfile.GNUTYPE_LONGNAME, 64 << 20))
    raw(tar, *[b"a" * (1 << 20)] * 64)


def through_pax(name: str) -> Build:
    def build(tar: tarfile.TarFile) -> None:
        extended(tar, {"path": name})
        raw(tar, header("chroma_db/plain", tarfile.REGTYPE, 0))

    return build


def twice(tar: tarfile.TarFile) -> None:
    add(tar, "chroma_db/file", b"1")
    add(tar, "chroma_db/file", b"2")


def file_as_folder(tar: tarfile.TarFile) -> None:
    add(tar, "chroma_db/file", b"1")
    add(tar, "chroma_db/file/inside", b"2")


def folder_over_file(tar: tarfile.TarFile) -> None:
    add(tar, "chroma_db/file", b"1")
    folder(tar, "chroma_db/file")


HOSTILE: dict[str, Build] = {
    "a name twice": twice,
    "a folder twice": lambda tar: folder(tar, "chroma_db/a", "chroma_db/a"),
    "the root twice": lambda tar: folder(tar, "chroma_db"),
    "a file used as a folder": file_as_folder,
    "a folder in a file's place": folder_over_file,
    "a folder that is not there": lambda tar: add(tar, "chroma_db/a/b/file", b"1"),
    "a NUL in a name": through_pax("chroma_db/a\0b"),
    "a line's end in a name": through_pax("chroma_db/a\nb"),
    "a terminal's escape in a name": through_pax("chroma_db/\x1b[2Jb"),
    "a name of 300 bytes": through_pax("chroma_db/" + "가" * 100),
    "a path of 5,000 bytes": through_pax("chroma_db" + "/a" * 2500),
    "an empty part in a name": through_pax("chroma_db//a"),
    "a name that leads out": through_pax("chroma_db/../../evil"),
    "a dot in a name": through_pax("chroma_db/./a"),
    "an absolute name": through_pax("/chroma_db/evil"),
    "another root": lambda tar: add(tar, "other/evil", b"1"),
    "no root": lambda tar: add(tar, "evil", b"1"),
    "a file as the root": lambda tar: add(tar, "chroma_db", b"1"),
    "holes as GNU tar wrote them": old_sparse,
    "holes as POSIX has them": posix_sparse,
    "a header of 64 MB": long_header,
    "a name of 64 MB": long_name,
    "a link": lambda tar: tar.addfile(member("chroma_db/l", tarfile.SYMTYPE, linkname="/etc/passwd")),
    "a hard link": lambda tar: tar.addfile(member("chroma_db/l", tarfile.LNKTYPE, linkname="chroma_db/x")),
    "a pipe": lambda tar: tar.addfile(member("chroma_db/p", tarfile.FIFOTYPE)),
    "a device": lambda tar: tar.addfile(member("chroma_db/d", tarfile.CHRTYPE)),
    "a folder with content": lambda tar: raw(tar, header("chroma_db/d/", tarfile.DIRTYPE, 512), bytes(512)),
    "a size below 0": lambda tar: raw(tar, _negative()),
    "a size in letters": lambda tar: (extended(tar, {"size": "1e9"}), raw(tar, header("chroma_db/f", b"0", 0)))[0],
    "a size of 40 digits": lambda tar: (extended(tar, {"size": "9" * 40}), raw(tar, header("chroma_db/f", b"0", 0)))[0],
    "a file that has no end": lambda tar: raw(tar, header("chroma_db/f", tarfile.REGTYPE, 1 << 30)),
    "another key in a header": lambda tar: (extended(tar, {"hdrcharset": "BINARY"}), add(tar, "chroma_db/f"))[0],
    "something behind its end": lambda tar: raw(tar, bytes(1024), b"more"),
}  # fmt: skip


def _negative() -> bytes:
    block = bytearray(header("chroma_db/f", tarfile.REGTYPE, 0))
    block[124:136] = b"\xff" * 12
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def tar_of(build: Build) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as tar:
        folder(tar, "chroma_db")
        build(tar)
    return data.getvalue()


@pytest.mark.parametrize("what", HOSTILE)
def test_a_tar_that_no_snapshot_is_gets_refused_and_nothing_is_written_elsewhere(tmp_path: Path, what: str) -> None:
    content = tar_of(HOSTILE[what])
    with pytest.raises(ProofFailed):
        look_through(io.BytesIO(gzip.compress(content)), password=None, encrypted=False, content_bytes=len(content))
    place = tmp_path / "place"
    place.mkdir()
    with pytest.raises(ProofFailed):
        unpack(
            io.BytesIO(gzip.compress(content)), place / "out", password=None, encrypted=False,
            content_bytes=len(content),
        )  # fmt: skip
    assert [p.name for p in tmp_path.rglob("*evil*")] == []
    assert list(place.iterdir()) == [place / "out"]
    assert sum(p.stat().st_size for p in place.rglob("*") if p.is_file()) <= len(content)


def test_no_more_is_unpacked_than_the_manifest_says(tmp_path: Path) -> None:
    content = tar_of(lambda tar: add(tar, "chroma_db/zeros", bytes(64 << 20)))
    with pytest.raises(ProofFailed, match="more than its manifest says"):
        unpack(io.BytesIO(gzip.compress(content)), tmp_path / "out", password=None, encrypted=False, content_bytes=4096)
    assert (tmp_path / "out" / "zeros").stat().st_size <= 4096


def test_a_manifest_that_asks_for_more_room_than_there_is_stops_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="make room"):
        unpack(io.BytesIO(b""), tmp_path / "out", password=None, encrypted=False, content_bytes=1 << 60)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("what", ["a header of 64 MB", "a name of 64 MB", "holes as GNU tar wrote them"])
def test_a_hostile_header_takes_no_memory(tmp_path: Path, what: str) -> None:
    """Measured in a process of its own: the peak of this one is that of all tests before."""
    content = tar_of(HOSTILE[what])
    (tmp_path / "tar.gz").write_bytes(gzip.compress(content))
    code = (
        "import resource, sys\n"
        "from saju_ops.chroma.pack import look_through\n"
        "from saju_ops.errors import ProofFailed\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n"
        "    look_through(open(sys.argv[1], 'rb'), password=None, encrypted=False, content_bytes=int(sys.argv[2]))\n"
        "except ProofFailed:\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "tar.gz"), str(len(content))], capture_output=True, check=True
    )
    assert int(done.stdout) < 24 << 10


def test_what_pack_wrote_is_unpacked_by_a_python_without_extraction_filters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Debian 12's 3.11.2 is. Names of 200 Korean letters, empty files, files of a block more or less."""
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    source, random_ = tmp_path / "source", random.Random(1)
    (source / "빈 폴더").mkdir(parents=True)
    for size in (0, 1, 511, 512, 513, 100_000):
        (source / "빈 폴더" / f"{size}{'가' * 70}").write_bytes(random_.randbytes(size))
    with (tmp_path / "tar").open("wb") as file:
        packed = pack(source, file, password=None, name="x")  # type: ignore[arg-type]
    with (tmp_path / "tar").open("rb") as file:
        found = unpack(file, tmp_path / "out", password=None, encrypted=False, content_bytes=packed.content_bytes)
    assert found == packed
    assert chroma_pack.listed(tmp_path / "out") == chroma_pack.listed(source)
    assert chroma_pack.listed(source)["빈 폴더"] == FOLDER


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    make_folder(root / "chroma_db", {"saju_knowledge": 20})
    take_snapshot(LocalStorage(root / "backups"), Source(folder=root / "chroma_db"), zone=KST, clock=lambda: NOW)
    return root / "backups"


def forge(storage: LocalStorage, content: bytes) -> None:
    """A newer snapshot with that content and a manifest that agrees with it."""
    (sound,) = backups(storage, "chroma_snapshot")
    stored = gzip.compress(content)
    name = "chroma/chromadb_20261122_053000.tar.gz"
    with storage.create(name) as writer:
        writer.write(stored)
        writer.commit()
    write_manifest(storage, replace(
        sound, file=name, taken_at=(NOW + timedelta(minutes=30)).isoformat(),
        content_sha256=hashlib.sha256(content).hexdigest(), content_bytes=len(content),
        stored_sha256=hashlib.sha256(stored).hexdigest(), stored_bytes=len(stored),
    ))  # fmt: skip


@pytest.mark.usefixtures("own_scratch")
@pytest.mark.parametrize("what", ["a name twice", "holes as POSIX has them", "a NUL in a name", "a link"])
def test_a_hostile_snapshot_fails_its_drill_and_the_other_results_stay(
    made: Path, tmp_path: Path, own_scratch: Path, what: str
) -> None:
    storage = LocalStorage(tmp_path / "backups")
    for name in LocalStorage(made).names(""):
        with storage.create(name) as writer, LocalStorage(made).open(name) as source:
            writer.write(source.read())
            writer.commit()
    forge(storage, tar_of(HOSTILE[what]))
    drills = [lambda: [snapshot_drill(storage)], lambda: [archive_drill(storage, now=NOW, zone=KST)]]
    result = verify(storage, now=NOW + timedelta(hours=1), zone=KST, drills=drills)
    assert [(d.passed, d.tried) for d in result.drills] == [(False, True), (False, False)]
    assert "20261122_053000" in result.drills[0].text
    assert not result.passed
    assert not any(own_scratch.iterdir())


def test_a_disk_that_gets_full_while_a_snapshot_is_extracted_is_a_sentence(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = LocalStorage(made)
    (name,) = [n for n in storage.names("chroma/") if n.endswith(".manifest.json")]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        with pytest.raises(OperatorError, match="could not be extracted"):
            extract_snapshot(storage, read_manifest(storage, name), tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert not (tmp_path / "out").exists()
