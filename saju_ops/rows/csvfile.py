"""The archive file: UTF-8 CSV with a byte-order mark, so that Excel shows Korean; optionally gzip, or in an
encrypted zip (saju_ops.storage.encryption).

Every cell that isn't NULL is quoted, with quotes doubled inside; NULL is nothing at all, so it differs from the empty
string. Lines end with a line feed. The same rows give the same bytes, except for a zip, which has a salt.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast

from saju_ops.errors import ProofFailed
from saju_ops.storage.open import Writer

if TYPE_CHECKING:
    import pyarrow as pa

BOM = b"\xef\xbb\xbf"
Compression = Literal["none", "gzip"]
SUFFIX = {"none": ".csv", "gzip": ".csv.gz"}
ENCRYPTED_SUFFIX = ".csv.zip"
# Level 1 of Intel's implementation: some 400 MB/s a core and a third of the size.
GZIP_LEVEL = 1
# Bytes a reader takes at once: what fits the processor's cache is parsed twice as fast as 4 MiB. pyarrow needs
# a whole record in one block, so it grows where one is larger.
BLOCK = 1 << 20
LARGEST_BLOCK = 1 << 30
# Looks, 5 ms apart, at a thread that may have stopped reading of itself, its queue being full.
STILL = 20


@dataclass(frozen=True)
class Packing:
    """The form in which the CSV is stored. In an encrypted file, the compression is the zip's own."""

    compression: Compression = "none"
    encrypted: bool = False
    password: str | None = field(default=None, repr=False)

    @property
    def suffix(self) -> str:
        return ENCRYPTED_SUFFIX if self.encrypted else SUFFIX[self.compression]


def header(names: Sequence[str]) -> bytes:
    return ",".join('"' + name.replace('"', '""') + '"' for name in names).encode() + b"\n"


class CsvSink(io.RawIOBase):
    """Compresses and counts the CSV on its way to storage.

    It doesn't hash: only what is read back from storage counts, and that is hashed there.
    """

    def __init__(self, writer: Writer, packing: Packing, names: Sequence[str], name: str = "archive.csv") -> None:
        """`name`: the file's name inside an encrypted zip."""
        self._writer: Any = writer
        self.content_bytes = 0
        self._gzip: Any = None
        self._encrypted = packing.encrypted
        if packing.encrypted:
            from saju_ops.storage.encryption import encrypting

            self._writer = encrypting(writer, packing.password or "", name, compression=packing.compression)
        elif packing.compression == "gzip":
            from isal import isal_zlib

            # wbits 31 is the gzip format, without a time stamp: the same rows must give the same file.
            self._gzip = isal_zlib.compressobj(level=GZIP_LEVEL, wbits=31)
        self._arrow: Any = None
        self.write(BOM + header(names))

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.content_bytes += len(data)
        self._store(self._gzip.compress(data) if self._gzip else data)
        return len(data)

    def _store(self, data: Any) -> None:
        if len(data):
            self._writer.write(data)

    def write_batch(self, batch: pa.RecordBatch) -> None:
        if self._arrow is None:
            self._arrow = _row_writer(self, batch)
        self._arrow.write_batch(batch)

    def finish(self) -> None:
        """Writes what is still buffered. Nothing may be written after it."""
        if self._arrow is not None:
            self._arrow.close()
            # It holds this object, through C++ where Python's garbage collector doesn't see the circle: its buffer
            # of 0.7 MB would stay for ever, once a day archived.
            self._arrow = None
        if self._gzip:
            self._store(self._gzip.flush())
        if self._encrypted:
            self._writer.close()

    def close(self) -> None:
        # pyarrow closes its file; the storage writer's end is not pyarrow's to decide.
        return


def write_rows(batches: Iterator[pa.RecordBatch], sink: Any) -> None:
    """Rows alone, in the archive's format, for a server that loads them."""
    writer: Any = None
    for batch in batches:
        writer = writer or _row_writer(sink, batch)
        writer.write_batch(batch)
    if writer is not None:
        writer.close()


def _row_writer(sink: Any, batch: pa.RecordBatch) -> Any:
    import pyarrow as pa
    import pyarrow.csv as pc

    options = pc.WriteOptions(include_header=False, batch_size=8192, quoting_style="needed")
    return pc.CSVWriter(pa.PythonFile(sink, "w"), batch.schema, write_options=options)


class HashingReader(io.RawIOBase):
    """Reads a file and hashes what passes by."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._hash = sha256()
        self.bytes = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        # pyarrow takes the bytes as they are; readinto and a buffered reader would copy them twice more,
        # which is 0.2 s per million rows.
        data = self._source.read(size)
        self._hash.update(data)
        self.bytes += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        # What the gzip reader calls.
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def close(self) -> None:
        # pyarrow closes what it has read; the rest of the file is still to be hashed after that.
        return

    def release(self) -> None:
        self._source.close()


class _Rest(io.RawIOBase):
    """The rest of a reader, and whether that is empty. For pyarrow, which reads ahead in a thread of its own."""

    def __init__(self, source: HashingReader) -> None:
        self._source = source
        self._ahead = source.read(1)
        self._reading = threading.Lock()
        self._calls = 0
        self._stopped = self._ended = False

    @property
    def is_empty(self) -> bool:
        return not self._ahead

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        with self._reading:
            self._calls += 1
            ahead, self._ahead = self._ahead, b""
            data = b"" if self._stopped else ahead or self._source.read(size)
            self._ended = not data
            return data

    def stop(self) -> None:
        """Waits until pyarrow's thread reads no more. A thread that still ran asked for Python's lock while the
        interpreter ended: the process was aborted, one time in twenty, after it had reported the fault in a file."""
        self._stopped = True
        seen, still = -1, 0
        while not self._ended and still < STILL:
            time.sleep(0.005)
            with self._reading:
                still = still + 1 if seen == self._calls else 0
                seen = self._calls

    def close(self) -> None:
        return


class ArchiveReader:
    """The rows of a stored file, as batches of text cells, with the hashes of all that was read."""

    def __init__(self, source: BinaryIO, packing: Packing, names: Sequence[str], block: int = BLOCK) -> None:
        """Raises WrongPassword for an encrypted file, and ProofFailed where it isn't one but should be."""
        self._stored = HashingReader(source)
        self._content = self._stored
        if packing.encrypted:
            from saju_ops.storage.encryption import decrypting

            try:
                self._content = HashingReader(decrypting(cast(BinaryIO, self._stored), packing.password))
            except BaseException:
                source.close()
                raise
        elif packing.compression == "gzip":
            from isal import igzip

            stored: Any = igzip.IGzipFile(fileobj=cast(BinaryIO, self._stored), mode="rb")
            self._content = HashingReader(cast(BinaryIO, stored))
        self._names = list(names)
        self._block = block
        self._rest: _Rest | None = None

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Raises ProofFailed where the file isn't a whole archive with these columns."""
        import pyarrow as pa
        import pyarrow.csv as pc

        expected = BOM + header(self._names)
        try:
            if self._start(len(expected)) != expected:
                raise ProofFailed("its first line doesn't name the columns that the manifest names")
            self._rest = source = _Rest(self._content)
            if source.is_empty:
                return
            reader = pc.open_csv(
                pa.PythonFile(source, "r"),
                read_options=pc.ReadOptions(block_size=self._block, column_names=self._names, use_threads=False),
                parse_options=pc.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
                convert_options=pc.ConvertOptions(
                    column_types=dict.fromkeys(self._names, pa.binary()),
                    null_values=[""],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                ),
            )
            yield from reader
        except (pa.ArrowInvalid, EOFError, OSError, ValueError) as error:
            if isinstance(error, pa.ArrowInvalid) and "straddl" in str(error):
                raise RecordTooLarge from error
            # pyarrow's message quotes the row; it must not reach a log.
            raise ProofFailed(f"it can't be read as a whole CSV file ({type(error).__name__})") from None

    def _start(self, size: int) -> bytes:
        start = b""
        while len(start) < size and (more := self._content.read(size - len(start))):
            start += more
        return start

    def finish(self) -> None:
        """Reads to the end, so that the hashes cover the whole file."""
        while self._content.read(1 << 20):
            pass
        while self._stored.read(1 << 20):
            pass

    @property
    def content_sha256(self) -> str:
        return self._content.sha256

    @property
    def content_bytes(self) -> int:
        return self._content.bytes

    @property
    def stored_sha256(self) -> str:
        return self._stored.sha256

    @property
    def stored_bytes(self) -> int:
        return self._stored.bytes

    def close(self) -> None:
        if self._rest is not None:
            self._rest.stop()
        self._content.release()
        self._stored.release()


class RecordTooLarge(Exception):
    """A record doesn't fit the block; read again with a larger one."""
