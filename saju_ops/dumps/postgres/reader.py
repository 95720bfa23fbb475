"""Cuts the text of a PostgreSQL dump into statements, as the server's own scanner would, and the rows of its COPYs.

It is cut byte by byte: that is the same in UTF-8 and SQL_ASCII, the two encodings that dumps are taken in. Refused is
what servers of different versions cut in different ways, a NUL byte, and a backslash outside of text and rows: the
commands of psql begin with one, and so does nothing else that pg_dump writes but \\restrict and \\unrestrict.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from saju_ops.dumps.engine import ForeignToDumps

# No text that pg_dump writes as one statement is larger; a large object comes in pieces of 32 KB.
LARGEST_STATEMENT = 64 << 20
COPY_END = b"\n\\.\n"


class Token(NamedTuple):
    """`kind`: word, name (in double quotes), string, number, group (all between brackets) or sign."""

    kind: str
    # Words in upper case, everything else as it is written; of a group nothing.
    value: str
    start: int
    end: int


class Statement(NamedTuple):
    """`text` has no semicolon at its end, `tokens` are those outside of brackets."""

    text: bytes
    tokens: tuple[Token, ...]

    def name(self, at: int) -> str:
        """The token as the server's catalogue has it."""
        token = self.tokens[at]
        raw = self.text[token.start : token.end].decode(errors="surrogateescape")
        return raw[1:-1].replace('""', '"') if token.kind == "name" else raw.lower()

    @property
    def words(self) -> tuple[str, ...]:
        """Quoted names and texts don't count as words: so none of them can look like a keyword."""
        return tuple(t.value if t.kind in ("word", "number", "sign") else t.kind for t in self.tokens)


_TOKEN = re.compile(
    rb"(?P<space>[ \t\n\r\f]+|--[^\r\n]*)|(?P<comment>/\*)|(?P<escaped>[eE]')|(?P<text>')|(?P<name>\")"
    rb"|(?P<dollar>\$(?:[A-Za-z_\x80-\xff][\w\x80-\xff]*)?\$)|(?P<word>[A-Za-z_\x80-\xff][\w$\x80-\xff]*)"
    rb"|(?P<number>[0-9][\w.\x80-\xff]*)|(?P<end>;)|(?P<open>\()|(?P<close>\))|(?P<sign>\$[0-9]+|.)",
    re.DOTALL,
)
_RESTRICT = re.compile(rb"\\(?:un)?restrict [A-Za-z0-9]+\r?\n")
# Prefixes that make a text a bit string, or Unicode with another escape.
_PREFIXES = (b"b", b"B", b"x", b"X", b"&")
_NESTED = re.compile(rb"/\*|\*/")
_ESCAPED = re.compile(rb"[\\']")


class Reader:
    """Iterate it for the statements; the rows of a COPY are read by `rows` before the next one."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._data, self._at = b"", 0
        self._ended = False
        # As `standard_conforming_strings` is at that place of the dump: off, a backslash escapes in every text.
        self.escapes = False
        self._line_begins = True

    def __iter__(self) -> Iterator[Statement]:
        while (statement := self._next()) is not None:
            yield statement

    def _more(self, least: int = 1) -> bool:
        """Reads on, at least so many bytes where there are any. What was read before `_at` is let go."""
        if self._at:
            self._line_begins = self._data[self._at - 1 : self._at] == b"\n"
        pieces, size = [self._data[self._at :]], 0
        self._at = 0
        while size < least:
            piece = next(self._chunks, None)
            if piece is None:
                self._ended = True
                break
            pieces.append(piece)
            size += len(piece)
        self._data = b"".join(pieces)
        return size > 0

    def _next(self) -> Statement | None:
        while True:
            scan = _Scan(self._data, self._at, self._ended, self.escapes, self._line_begins)
            found = scan.statement()
            if found is not None:
                self._at = scan.at
                return found
            if scan.empty:
                # Blanks, comments and lines of no meaning need not be looked at again.
                self._at = scan.at
                if self._ended:
                    if self._data[self._at :]:
                        raise ForeignToDumps("an end in the middle of a statement")
                    return None
            elif self._ended:
                raise ForeignToDumps("an end in the middle of a statement")
            if len(self._data) - self._at > LARGEST_STATEMENT:
                raise ForeignToDumps("a single statement of more than 64 MB")
            # As much again as there is: a long statement is looked at a few times, not once for each piece.
            self._more(len(self._data) - self._at + 1)

    def rows(self) -> Iterator[bytes]:
        """The rows up to the line that ends them, in pieces of any size."""
        while len(self._data) - self._at < len(COPY_END) and self._more():
            pass
        if self._data[self._at : self._at + 1] != b"\n":
            raise ForeignToDumps("rows that do not begin on a line of their own")
        # The statement's line end may be that of the rows' end, too: where there are none.
        at, first = self._at, 1
        while True:
            end = self._data.find(COPY_END, at)
            if end >= 0:
                if end + 1 > at + first:
                    yield self._data[at + first : end + 1]
                self._at = end + len(COPY_END)
                return
            whole = max(at + first, len(self._data) - len(COPY_END) + 1)
            if whole > at + first:
                yield self._data[at + first : whole]
                at, first = whole, 0
            self._at = at
            if not self._more():
                raise ForeignToDumps("an end in the middle of rows")
            at = 0


class _Scan:
    """One search for the next statement in the buffer. `at` is behind the statement, or, with `empty`, behind what may
    be skipped before it begins."""

    def __init__(self, data: bytes, at: int, ended: bool, escapes: bool, line_begins: bool) -> None:
        self._data, self.at, self._ended, self._escapes = data, at, ended, escapes
        self._line_begins = line_begins if at == 0 else data[at - 1 : at] == b"\n"
        self.empty = True
        self._tokens: list[Token] = []
        self._begin = at
        self._depth = self._body = 0
        self._group, self._last = 0, ""

    def statement(self) -> Statement | None:
        data, at = self._data, self.at
        while at < len(data):
            found = _TOKEN.match(data, at)
            assert found is not None
            kind, end = str(found.lastgroup), found.end()
            if kind not in ("end", "space", "open", "close"):
                end = self._end_of(kind, found)
            # A token that touches the end of the buffer may continue.
            if end < 0 or (end == len(data) and kind != "end" and not self._ended):
                return None
            if kind in ("space", "comment"):
                at = end
                if self.empty:
                    self.at = self._begin = at
                continue
            if data[at : at + 1] in b"\\\x00":
                if self.empty and (restrict := self._restrict(at)):
                    at = self.at = self._begin = restrict
                    continue
                if self.empty and not self._ended and len(data) - at < 200:
                    return None
                self._refuse(data[at])
            if kind == "end" and not self._depth and not self._body:
                begin, at = self._begin, end
                self.at = self._begin = end
                if self._tokens:
                    return Statement(data[begin : end - 1], tuple(self._tokens))
                continue
            self.empty = False
            self._take(kind, at, end)
            at = end
        return None

    def _restrict(self, at: int) -> int:
        begins = self._data[at - 1 : at] == b"\n" if at else self._line_begins
        found = _RESTRICT.match(self._data, at)
        return found.end() if begins and found else 0

    def _refuse(self, byte: int) -> None:
        if byte:
            raise ForeignToDumps("a command of psql's own (a backslash outside of text and rows)")
        raise ForeignToDumps("a NUL byte outside of rows")

    def _end_of(self, kind: str, found: re.Match[bytes]) -> int:
        """Where the token ends, -1 where that is not there yet."""
        data, end = self._data, found.end()
        if kind == "comment":
            return self._nested(end)
        if kind in ("text", "escaped"):
            if self._escapes and kind == "text" and data[found.start() - 1 : found.start()] in _PREFIXES:
                raise ForeignToDumps("bits while backslashes escape")
            escaped = kind == "escaped" or self._escapes
            end = self._closed_escaped(end) if escaped else self._closed(b"'", end)
        elif kind == "name":
            end = self._closed(b'"', end)
        elif kind == "dollar":
            tag = found[0]
            end = data.find(tag, end)
            end = end + len(tag) if end >= 0 else -1
        elif kind == "number" and data[end : end + 1] in (b"'", b'"', b"$"):
            # Servers of different versions cut this in different ways.
            raise ForeignToDumps("a number that ends in a quote")
        if end > 0 and kind in ("text", "escaped", "name", "dollar") and b"\x00" in data[found.start() : end]:
            raise ForeignToDumps("a NUL byte outside of rows")
        return end

    def _closed(self, quote: bytes, at: int) -> int:
        while (at := self._data.find(quote, at)) >= 0:
            if self._data[at + 1 : at + 2] != quote:
                return at + 1
            at += 2
        return -1

    def _closed_escaped(self, at: int) -> int:
        while found := _ESCAPED.search(self._data, at):
            at = found.start()
            if found[0] == b"'" and self._data[at + 1 : at + 2] != b"'":
                return at + 1
            at += 2
        return -1

    def _nested(self, at: int) -> int:
        depth = 1
        while depth:
            found = _NESTED.search(self._data, at)
            if found is None:
                return -1
            depth += 1 if found[0] == b"/*" else -1
            at = found.end()
        return at

    def _take(self, kind: str, at: int, end: int) -> None:
        start = at - self._begin
        if kind in ("open", "close"):
            self._last = kind
        if kind == "open":
            if not self._depth:
                self._group = start
            self._depth += 1
            return
        if kind == "close":
            self._depth = max(0, self._depth - 1)
            if not self._depth:
                self._tokens.append(Token("group", "", self._group, end - self._begin))
            return
        kind = {"text": "string", "escaped": "string", "dollar": "string", "end": "sign"}.get(kind, kind)
        raw = self._data[at:end] if kind != "string" else b"'"
        value = raw.decode(errors="surrogateescape")
        value = value.upper() if kind == "word" and value.isascii() else value
        if kind == "word":
            self._count_body(value)
        if kind == self._last == "string":
            # The server takes two as one where a line ends between them, and then the first says how to read both.
            raise ForeignToDumps("two texts one after the other")
        self._last = kind
        if self._depth:
            return
        self._tokens.append(Token(kind, value, start, end - self._begin))

    def _count_body(self, word: str) -> None:
        """A function's body that is no text: BEGIN ATOMIC … END, which may contain CASE … END."""
        if self._body:
            self._body += {"CASE": 1, "END": -1}.get(word, 0)
        elif word == "ATOMIC" and not self._depth and [t.value for t in self._tokens[:1]] == ["CREATE"]:
            self._body = int(self._tokens[-1].value == "BEGIN")
