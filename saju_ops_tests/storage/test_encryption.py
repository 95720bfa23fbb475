"""Encrypted files: what went in comes out, a wrong password is said first, and nothing cut or altered passes."""

from __future__ import annotations

import gc
import io
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from shutil import which
from typing import Literal

import pytest
import pyzipper

from saju_ops.errors import ProofFailed
from saju_ops.storage.encryption import PIECE, WrongPassword, decrypting, encrypting

PASSWORD = "correct horse 배터리 staple"
NOW = datetime(2026, 10, 1, 3, 0, tzinfo=UTC)
COMPRESSIONS: list[Literal["none", "gzip"]] = ["none", "gzip"]


def encrypted(data: bytes, compression: Literal["none", "gzip"] = "gzip", name: str = "app.sql.gz") -> bytes:
    sink = io.BytesIO()
    with encrypting(sink, PASSWORD, name, compression=compression, now=NOW) as writer:
        writer.write(data)
    return sink.getvalue()


def decrypted(data: bytes, password: str | None = PASSWORD) -> bytes:
    with decrypting(io.BytesIO(data), password) as stream:
        return stream.read()


def some_bytes(size: int) -> bytes:
    return b"".join((b"%d,\xec\x95\x88\xeb\x85\x95\n" % i) for i in range(size // 10))[: size // 2] + os.urandom(
        size - size // 2
    )


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("size", [0, 1, 22, PIECE - 1, PIECE, PIECE + 1, 5_000_000])
def test_what_was_encrypted_comes_back(size: int, compression: Literal["none", "gzip"]) -> None:
    data = some_bytes(size)
    stored = encrypted(data, compression)
    assert decrypted(stored) == data
    assert size < 30 or data[: size // 4] not in stored


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_7_zip_and_another_reader_open_it(tmp_path: Path, compression: Literal["none", "gzip"]) -> None:
    data, file = some_bytes(300_000), tmp_path / "app.sql.gz.zip"
    file.write_bytes(encrypted(data, compression))
    with pyzipper.AESZipFile(file) as opened:
        assert opened.namelist() == ["app.sql.gz"]
        assert opened.read("app.sql.gz", pwd=PASSWORD.encode()) == data
    seven = which("7z") or which("7zz")
    assert seven, "7-Zip is missing; install it with `apt install 7zip` or p7zip-full."
    command = [seven, "x", "-so", f"-p{PASSWORD}", str(file)]
    assert subprocess.run(command, check=True, capture_output=True).stdout == data
    assert subprocess.run([*command[:3], "-pwrong", str(file)], capture_output=True, check=False).returncode != 0


def test_a_wrong_password_is_said_before_anything_is_read() -> None:
    source = Counting(encrypted(some_bytes(3_000_000), "none"))
    with pytest.raises(WrongPassword, match="ARCHIVE_PASSWORD is not the password"):
        decrypting(source, "another long password")
    assert source.taken <= PIECE
    with pytest.raises(WrongPassword, match="not set"):
        decrypting(io.BytesIO(encrypted(b"x")), None)


class Counting(io.BytesIO):
    taken = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.taken += len(data)
        return data


def test_the_password_and_the_content_are_in_no_message() -> None:
    secret = b"a secret message that nobody may see " * 100
    stored = bytearray(encrypted(secret, "none"))
    stored[len(stored) // 2] ^= 1
    with pytest.raises(ProofFailed) as failed:
        decrypted(bytes(stored))
    assert "secret" not in repr(failed.value)
    assert PASSWORD not in repr(failed.value)


@pytest.mark.long
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_file_cut_anywhere_never_passes_for_a_whole_one(compression: Literal["none", "gzip"]) -> None:
    stored = encrypted(some_bytes(2_000), compression)
    for size in range(len(stored)):
        with pytest.raises((ProofFailed, WrongPassword)):
            decrypted(stored[:size])


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_changed_bit_of_the_content_is_found(compression: Literal["none", "gzip"]) -> None:
    data = some_bytes(2_000)
    stored = encrypted(data, compression)
    places = random.Random(1)
    for _ in range(300):
        changed = bytearray(stored)
        changed[places.randrange(len(stored))] ^= 1 << places.randrange(8)
        try:
            found = decrypted(bytes(changed))
        except (ProofFailed, WrongPassword):
            continue
        # Names and times in the headers are not covered by the content's seal; the content is.
        assert found == data


def test_what_is_no_encrypted_zip_is_refused(tmp_path: Path) -> None:
    plain = io.BytesIO()
    with pyzipper.ZipFile(plain, "w") as file:
        file.writestr("a.csv", "1,2,3\n" * 100)
    for data in (plain.getvalue(), b"", b"\x1f\x8b" + os.urandom(500), os.urandom(3_000), b"PK\x03\x04"):
        with pytest.raises(ProofFailed):
            decrypted(data)


def test_two_files_in_one_zip_are_refused() -> None:
    file = io.BytesIO()
    with pyzipper.AESZipFile(file, "w", compression=pyzipper.ZIP_DEFLATED, encryption=pyzipper.WZ_AES) as zipped:
        zipped.setpassword(PASSWORD.encode())
        # AE-2 is what pyzipper writes for small members.
        zipped.writestr("a", b"1")
        zipped.writestr("b", b"2")
    with pytest.raises(ProofFailed):
        decrypted(file.getvalue())


class BrokenSink:
    def write(self, data: bytes) -> None:
        raise OSError(28, "No space left on device")


def test_an_error_of_the_sink_reaches_the_writer() -> None:
    def write_much() -> None:
        with encrypting(BrokenSink(), PASSWORD, compression="none") as writer:
            for _ in range(200):
                writer.write(os.urandom(PIECE))

    with pytest.raises(OSError, match="No space"):
        write_much()
    require_no_thread()


def test_an_exception_of_the_caller_ends_the_thread_and_finishes_nothing() -> None:
    sink = io.BytesIO()

    def break_off() -> None:
        with encrypting(sink, PASSWORD) as writer:
            writer.write(b"half")
            raise RuntimeError("broken off")

    with pytest.raises(RuntimeError, match="broken off"):
        break_off()
    require_no_thread()
    with pytest.raises((ProofFailed, WrongPassword)):
        decrypted(sink.getvalue())


def test_a_writer_that_is_let_go_of_leaves_no_thread() -> None:
    writer = encrypting(io.BytesIO(), PASSWORD)
    writer.write(b"x")
    thread = writer._thread
    assert thread is not None
    del writer
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()


def require_no_thread() -> None:
    assert [t for t in threading.enumerate() if t.name == "encrypting"] == []


MEMORY = """
import io, os, sys
from saju_ops.storage.encryption import decrypting, encrypting

def most():
    # Not ru_maxrss, which a child inherits from the process that forked it.
    return next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))


read_end, write_end = os.pipe()
if os.fork() == 0:
    os.close(read_end)
    with os.fdopen(write_end, "wb") as sink, encrypting(sink, "a long enough password", compression="none") as writer:
        block = os.urandom(1 << 20)
        for _ in range(int(sys.argv[1])):
            writer.write(block)
    print(most(), flush=True)
    os._exit(0)
os.close(write_end)
size = 0
with decrypting(os.fdopen(read_end, "rb"), "a long enough password") as stream:
    while data := stream.read(1 << 20):
        size += len(data)
os.wait()
print(size >> 20, most())
"""


@pytest.fixture(scope="module")
def memory() -> Callable[[int], list[int]]:
    """Kilobytes that writing and reading so many MiB takes."""

    def used(size: int) -> list[int]:
        done = subprocess.run([sys.executable, "-c", MEMORY, str(size)], check=True, capture_output=True, text=True)
        written, (read, most) = int(done.stdout.split()[0]), map(int, done.stdout.split()[1:])
        assert read == size
        return [written, most]

    return used


@pytest.mark.long
def test_memory_does_not_grow_with_the_size(memory: Callable[[int], list[int]]) -> None:
    small, large = memory(20), memory(300)
    assert max(abs(a - b) for a, b in zip(small, large, strict=True)) < 20_000, (small, large)
