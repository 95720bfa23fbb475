"""MySQL's and MariaDB's SQL as words: names, texts, comments, and what is executed.

Reads bytes in character sets in which no part of a longer character is an ASCII one. It never guesses: SQL that it
can't read to the end is `Unread`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

NAME = rb"`(?:[^`\0]|``)+`"
TEXT = rb"'[^'\\]*+(?:(?:\\.|'')[^'\\]*+)*+'"
_DOUBLE = rb'"[^"\\]*+(?:(?:\\.|"")[^"\\]*+)*+"'
# In the order in which they are tried.
_WORDS = re.compile(
    rb"(?P<space>[ \t\r\n\f\v]++)|(?P<open>/\*M?!(?:\d{5,6}(?!\d))?)|(?P<comment>/\*.*?\*/|--(?=[\s\0])[^\n]*|#[^\n]*)"
    rb"|(?P<close>\*/)|(?P<text>" + TEXT + rb"|" + _DOUBLE + rb")|(?P<name>" + NAME + rb")"
    rb"|(?P<number>\d++(?:\.\d*+)?(?:[eE][-+]?\d++)?(?![\w$\x80-\xff]))|(?P<word>[\w$@\x80-\xff]++)|(?P<sign>[^'\"`\0])",
    re.DOTALL,
)
# A function of MariaDB whose argument is a sequence.
SEQUENCES = {b"NEXTVAL", b"LASTVAL", b"SETVAL"}


class Unread(ValueError):
    """It ends in the middle of a text, name or comment, or holds something that no statement of a dump has."""


class Word(NamedTuple):
    kind: str
    text: bytes
    start: int
    end: int

    @property
    def upper(self) -> bytes:
        """A keyword as this module's users compare it; of a quoted name nothing that equals any."""
        return self.text.upper() if self.kind != "name" else b"`"


def words(statement: bytes, *, ansi: bool = False, spaces: bool = False) -> list[Word]:
    """`ansi`: ANSI_QUOTES is on, so "x" is a name. Comments count as words, blanks only if asked."""
    found, position = [], 0
    while position < len(statement):
        match = _WORDS.match(statement, position)
        if match is None:
            raise Unread
        kind = str(match.lastgroup)
        if ansi and match[0][:1] == b'"':
            kind = "name"
        if match[0] == b"/" and statement[position : position + 2] == b"/*":
            raise Unread  # a comment that doesn't end
        if kind != "space" or spaces:
            found.append(Word(kind, match[0], position, match.end()))
        position = match.end()
    return found


def name_of(word: Word) -> bytes:
    """The name in a quoted or plain word."""
    if word.kind in ("name", "text"):
        quote = word.text[:1]
        return word.text[1:-1].replace(quote * 2, quote)
    return word.text


def quoted(name: str) -> bytes:
    return b"`" + name.replace("`", "``").encode() + b"`"


def without(text: bytes, cuts: Sequence[tuple[int, int]]) -> bytes:
    """The text without these parts."""
    kept, position = [], 0
    for start, end in cuts:
        kept.append(text[position:start])
        position = end
    return b"".join([*kept, text[position:]])


def chains(found: Sequence[Word]) -> list[tuple[int, int]]:
    """Where names are joined by points, as the places of the first and of the one after the last."""
    result, at = [], 0
    while at < len(found):
        end = at
        while end + 2 < len(found) and found[end + 1].text == b".":
            if not (_is_name(found[end]) and _is_name(found[end + 2])):
                break
            end += 2
        if end > at:
            result.append((at, end + 1))
        at = end + 1
    return result


def _is_name(word: Word) -> bool:
    return word.kind in ("name", "word") or word.text == b"*"


def unqualified(definition: bytes, database: str) -> bytes:
    """A definition as the server writes it, without its own database's name: restored under another name it would be
    one of the old database's things. MariaDB puts it before sequences, and before a view's columns where the definer is
    no user any more; both put it before functions, and before tables where they were asked from elsewhere.

    A table may bear the database's name: `jobs`.`id` is then its column, not a table `id`. What two names mean says
    their place: after FROM and JOIN, and before a bracket, the first is a database; anywhere else it is a table.
    """
    own = quoted(database)
    if own + b"." not in definition:
        return definition
    try:
        found = [w for w in words(definition) if w.kind != "comment"]
    except Unread:
        return definition
    tables = _table_places(found)
    cuts = []
    for start, end in chains(found):
        length = (end - start + 1) // 2
        called = end < len(found) and found[end].text == b"("
        if found[start].text == own and (length > 2 or called or start in tables):
            cuts.append((found[start].start, found[start + 1].end))
    return without(definition, cuts)


def _table_places(found: Sequence[Word]) -> set[int]:
    """The places of words at which a table or sequence is named."""
    places = set()
    # For each open bracket: whether a SELECT began in it, and whether its arguments are sequences.
    selects, sequences = [False], [False]
    expected = False
    for at, word in enumerate(found):
        upper = word.upper
        before = found[at - 1].upper if at else b""
        if word.text == b"(":
            # `from ((a join b) join c)`: still a table; `from (select …)`: a new beginning.
            inherits = expected or (before == b"(" and selects[-1])
            selects.append(inherits)
            sequences.append(before in SEQUENCES)
            expected = expected and inherits
            if sequences[-1]:
                places.add(at + 1)
            continue
        if word.text == b")":
            if len(selects) > 1:
                selects.pop()
                sequences.pop()
            expected = False
            continue
        if upper == b"SELECT":
            selects[-1], expected = True, False
        elif upper in (b"JOIN", b"STRAIGHT_JOIN") or (upper == b"FROM" and selects[-1]):
            expected = True
        elif upper == b"FOR" and before == b"VALUE":  # next value for s
            places.add(at + 1)
        elif expected and _is_name(word):
            places.add(at)
            expected = False
    return places
