"""Password protection of stored files: a zip file with one member, AES-256 (WinZip AE-2), as 7-Zip and others open.

Memory is constant at any size, both ways (zip64 throughout). A wrong password is reported before any content is read.
A file that was cut or altered never ends like a whole one: the member's HMAC, its sizes and the end of the zip file are
checked. Where an encrypted file is expected, a zip that isn't encrypted in this way is refused.

One password guards archives, dumps and snapshots, so all of them use the format that archives must have. A slower key
derivation for some of them would not make the password harder to guess. WinZip's derivation is fast to try (PBKDF2 with
1,000 rounds): the password must be long, and one shorter than `SHORTEST` is refused.
"""

from __future__ import annotations

import io
import threading
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from queue import Full, Queue
from types import TracebackType
from typing import Any, BinaryIO, Literal, Protocol

from saju_ops.errors import ProofFailed, Refused

# The ending of an encrypted file's name, after its own ending: `app_20261001_030000.sql.gz.zip`.
ENDING = ".zip"
# How it is called in manifests.
METHOD: Literal["zip-aes256"] = "zip-aes256"
# Characters. Some 10^6 passwords a second can be tried on a graphics card.
SHORTEST = 12
# Bytes handed on at once, and how many such pieces may wait for the thread that encrypts.
PIECE = 1 << 18
AHEAD = 8
# The end-of-central-directory record that every whole zip file without a comment ends with.
_END_SIGNATURE, _END_SIZE = b"PK\x05\x06", 22


class WrongPassword(Refused):
    """The file was encrypted with another password, or no password is set."""


class Sink(Protocol):
    def write(self, data: bytes) -> Any: ...


def encrypting(
    sink: Sink,
    password: str,
    name: str = "backup",
    *,
    compression: Literal["none", "gzip"] = "none",
    now: datetime | None = None,
) -> EncryptingWriter:
    """Encrypts what is written and passes it to `sink`; `close` writes the rest and leaves the sink open.

    `name`: the name of the file inside, which is the stored name without folder and ENDING. A `compression` other than
    none deflates it inside the zip. `now`: the member's time. Use it in a `with` block: an exception there stops the
    work at once, and the sink then holds no whole file.
    """
    return EncryptingWriter(sink, password, name, compression, now or datetime.now(UTC))


def decrypting(stream: BinaryIO, password: str | None) -> BinaryIO:
    """The content of an encrypted file, while it streams. Closing it closes the stream.

    Raises WrongPassword at once, before any content, and ProofFailed here or in `read` for a file that is cut,
    altered or no such zip; only what ends without an error is whole.
    """
    return io.BufferedReader(_DecryptingReader(stream, password), PIECE)


class EncryptingWriter:
    """A file-like object that encrypts in a thread, so that deflate and AES run beside what produces the data."""

    def __init__(
        self, sink: Sink, password: str, name: str, compression: Literal["none", "gzip"], now: datetime
    ) -> None:
        self._work = _Work(sink)
        self._thread: threading.Thread | None = threading.Thread(
            target=self._work.run, args=(password, name, compression, now), name="encrypting", daemon=True
        )
        self._thread.start()

    def write(self, data: Any) -> int:
        """Takes bytes or a buffer. Raises the sink's error."""
        view = memoryview(data).cast("B")
        for start in range(0, len(view), PIECE):
            # A copy: the caller may use its buffer again before the thread comes to it.
            self._work.pieces.put(bytes(view[start : start + PIECE]))
            self._work.raise_error()
        return len(view)

    def close(self) -> None:
        """Writes the end of the zip file. Raises the sink's error. A second call does nothing."""
        self._end(_END)
        self._work.raise_error()

    def abort(self) -> None:
        """Ends without finishing the file."""
        self._end(_ABORT)

    def _end(self, mark: object) -> None:
        if self._thread is not None:
            self._work.pieces.put(mark)
            self._thread.join()
            self._thread = None

    def __enter__(self) -> EncryptingWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self.close() if kind is None else self.abort()

    def __del__(self) -> None:
        # Let go of without close: the thread must not wait for ever, and this must not wait for the thread.
        if getattr(self, "_thread", None) is not None:
            self._work.aborted = True
            with suppress(Full):
                self._work.pieces.put_nowait(_ABORT)


_END, _ABORT = object(), object()


class _Aborted(Exception):
    pass


class _Work:
    """What the thread does. It knows nothing of the writer, so that a writer that is let go of can end it."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.pieces: Queue[Any] = Queue(AHEAD)
        self.aborted = False
        self._error: BaseException | None = None
        self._ended = False

    def raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def run(self, password: str, name: str, compression: str, now: datetime) -> None:
        try:
            for block in _zipped(self._input(), password, name, compression, now):
                self._sink.write(block)
        except _Aborted:
            return
        except BaseException as error:  # raised again where the caller writes
            self._error = error
            self._drain()

    def _input(self) -> Iterator[bytes]:
        while (piece := self.pieces.get()) is not _END:
            if piece is _ABORT or self.aborted:
                self._ended = True
                raise _Aborted
            yield piece
        self._ended = True

    def _drain(self) -> None:
        """After an error: discards what is still written, so that no writer waits for a thread that has ended."""
        while not self._ended:
            self._ended = self.pieces.get() in (_END, _ABORT)


def _zipped(pieces: Iterable[bytes], password: str, name: str, compression: str, now: datetime) -> Iterable[bytes]:
    from stream_zip import ZIP_64, stream_zip

    member = (name, now, 0o100600, ZIP_64, pieces)
    # As bytes: a text is encoded as Latin-1 by the library, which has no Korean.
    secret: Any = password.encode()
    return stream_zip([member], chunk_size=PIECE, get_compressobj=lambda: _deflate(compression), password=secret)


def _deflate(compression: str) -> Any:
    if compression == "none":
        # Deflate's uncompressed blocks: a zip member without compression would need its size before its content.
        return zlib.compressobj(level=0, wbits=-zlib.MAX_WBITS)
    from isal import isal_zlib

    return isal_zlib.compressobj(level=1, wbits=-zlib.MAX_WBITS)


class _DecryptingReader(io.RawIOBase):
    def __init__(self, stream: BinaryIO, password: str | None) -> None:
        self._stream = stream
        self._tail = b""
        self._rest = memoryview(b"")
        if not password:
            raise WrongPassword("The file is encrypted and ARCHIVE_PASSWORD is not set; set it and launch again.")
        self._content = _unzipped(self._pieces(), password)
        # The first piece here: so that a wrong password is said before anything is read.
        self._rest = memoryview(next(self._content, b""))

    def _pieces(self) -> Iterator[bytes]:
        while piece := self._stream.read(PIECE):
            self._tail = (self._tail + piece[-_END_SIZE:])[-_END_SIZE:]
            yield piece
        if not self._tail.startswith(_END_SIGNATURE):
            raise ProofFailed("the encrypted file is cut off or altered at its end")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            piece = next(self._content, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        view = memoryview(buffer).cast("B")
        size = min(len(view), len(self._rest))
        view[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


def _unzipped(pieces: Iterable[bytes], password: str) -> Iterator[bytes]:
    """The only member's content. Reads to the end of the file, so that the end is checked."""
    import stream_unzip as zips

    allowed = (zips.AE_2, zips.AES_256)
    try:
        members = zips.stream_unzip(
            pieces, password=password.encode(), chunk_size=PIECE, allowed_encryption_mechanisms=allowed
        )
        found = 0
        for _, _, content in members:
            found += 1
            if found > 1:
                raise ProofFailed("the encrypted file holds more than one file")
            yield from content
    except zips.IncorrectAESPasswordError:
        raise WrongPassword(
            "ARCHIVE_PASSWORD is not the password that the file was encrypted with; set the one that held when it was"
            " written and launch again. Nothing was read from it."
        ) from None
    except zips.UnzipError as error:
        raise ProofFailed(
            f"the encrypted file is cut off, altered or not encrypted by saju_ops ({type(error).__name__})"
        ) from None
    if not found:
        raise ProofFailed("the encrypted file holds nothing")
