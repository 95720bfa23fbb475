"""The words at the head of a statement, one after the other."""

from __future__ import annotations

from collections.abc import Callable

from saju_ops.dumps.mysql.words import Unread, Word, name_of, words


class _Head:
    """The head of a routine or trigger, word by word."""

    def __init__(self, text: bytes, ansi: bool, refused: Callable[[], Exception]) -> None:
        self._refused = refused
        self.cuts: list[tuple[int, int]] = []
        # The head is at the beginning; the rest isn't read.
        self._words = self._read(text, ansi)
        self._at = 0

    def _read(self, text: bytes, ansi: bool) -> list[Word]:
        for size in (200, 2_000, 20_000, len(text)):
            try:
                found = [w for w in words(text[:size], ansi=ansi) if w.kind != "comment"]
            except Unread:
                continue
            if len(found) > 30 or size >= len(text):
                return found[:-1] if size < len(text) else found
        raise self._refused()

    def peek(self) -> bytes:
        return self._words[self._at].upper if self._at < len(self._words) else b""

    def word(self, *expected: bytes) -> bytes:
        found = self.peek()
        if found not in expected:
            raise self._refused()
        self._at += 1
        return found

    def name(self, database: str, folded: bool) -> bytes:
        """A name, without the database's own before it."""
        first = self._name()
        if self.peek() != b".":
            return first.text
        mine, theirs = database.encode(), name_of(first)
        if mine != theirs and not (folded and mine.lower() == theirs.lower()):
            raise self._refused()
        self._at += 1
        second = self._name()
        self.cuts.append((first.start, second.start))
        return second.text

    def _name(self) -> Word:
        if self._at >= len(self._words) or self._words[self._at].kind not in ("name", "word"):
            raise self._refused()
        self._at += 1
        return self._words[self._at - 1]
