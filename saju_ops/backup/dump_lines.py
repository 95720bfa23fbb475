"""Looks at lines of a dump on its way into a database, without reading the data in between line by line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

# Bytes of one line after which it is handed on unseen: only data has such lines.
LONGEST = 8 << 20


def with_lines(
    chunks: Iterable[bytes], starts: Sequence[bytes], look: Callable[[bytes], bytes | None]
) -> Iterator[bytes]:
    """The chunks, with `look` called for every line of a block in which some line begins with one of `starts`. It
    returns the line, another in its place, or None to leave it out. A line too long to be looked at passes."""
    pending, inside = b"", False
    for chunk in chunks:
        data = pending + chunk
        if inside:  # in the middle of a line whose beginning has passed
            end = data.find(b"\n") + 1
            if not end:
                pending = b""
                yield data
                continue
            yield data[:end]
            data, inside = data[end:], False
        cut = data.rfind(b"\n") + 1
        if not cut and len(data) > LONGEST:
            pending, inside = b"", True
            yield data
            continue
        block, pending = data[:cut], data[cut:]
        if block:
            yield _looked_at(block, starts, look)
    if pending:
        yield _looked_at(pending, starts, look)


def _looked_at(block: bytes, starts: Sequence[bytes], look: Callable[[bytes], bytes | None]) -> bytes:
    if not any(block.startswith(s) or block.find(b"\n" + s) >= 0 for s in starts):
        return block
    lines = block.split(b"\n")
    ended = [line + b"\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
    return b"".join(kept for line in ended if (kept := look(line)) is not None)
