"""The statements of a dump that are executed: those that mysqldump, mariadb-dump and this program write, no other.

A person who can write into the store can write anything into a dump. So each statement is read whole, compared with a
list of forms, and passed on as exactly the bytes that were compared, without the comments whose content some servers
execute; and the server is set not to look for a second statement in it. A statement of any other form is refused, and
with it the rest of the dump. A routine, trigger, event or view is created and not executed, so only its head is read:
its kind, its table, its database.

No statement may name another database, and rows may only be written to tables that this dump made, before its triggers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from saju_ops.dumps.mysql.forms import (
    ALTER_DATABASE,
    BARE,
    DROP,
    FIXED,
    INSERT,
    OTHER_MODES,
    PLACEHOLDER,
    PLAIN_CHARSETS,
    SANDBOX,
    SEQUENCE,
    SET,
    SETVAL,
    UPDATE,
    VIEW,
    WRAPPED,
)
from saju_ops.dumps.mysql.judging import Statement, StatementJudge
from saju_ops.dumps.mysql.words import Unread, words

# Bytes: the dump programs are given 1G for a row.
LONGEST = (1 << 30) + (1 << 20)
# Lines at which a statement may seem to end: each has it read again from its beginning.
MOST_ENDS = 1_000


class Statements(StatementJudge):
    """Reads a dump that is to go into the database `target`. Raises ForeignToDumps."""

    def read(self, chunks: Iterable[bytes]) -> Iterator[Statement]:
        buffer, looked, ends = bytearray(), 0, 0
        for chunk in chunks:
            buffer += chunk
            while True:
                start = self._skipped(buffer, final=False)
                if start:
                    del buffer[:start]
                    looked = 0
                end = self._end(buffer, looked)
                if end < 0:
                    looked = max(0, len(buffer) - 3)
                    if len(buffer) > LONGEST:
                        raise self._refused(bytes(buffer[:200]))
                    break
                with memoryview(buffer) as view:
                    text = bytes(view[: end - len(self._delimiter)])
                if text.startswith((b"INSERT ", b"UPDATE ")):
                    # It is refused or whole, and may be a row of hundreds of megabytes: not here twice.
                    del buffer[:end]
                    end = 0
                try:
                    statement = self._judged(text.strip())
                except Unread:
                    # A line may end inside a text, such as a view's: it continues.
                    ends += 1
                    if not text.startswith((b"CREATE", b"/*!")) or len(text) > 1 << 24 or ends > MOST_ENDS:
                        raise self._refused(text) from None
                    looked = end
                    continue
                del buffer[:end]
                looked = ends = 0
                if statement is not None:
                    yield statement
        if rest := bytes(buffer[self._skipped(buffer, final=True) :]).strip():
            raise self._refused(rest)

    def _skipped(self, buffer: bytearray, *, final: bool) -> int:
        """Where the next statement begins: behind empty lines, comments, and DELIMITER, which is followed."""
        at = 0
        while at < len(buffer):
            if buffer[at] in b" \t\r\n":
                at += 1
                continue
            if not buffer.startswith((b"--", b"DELIMITER ", SANDBOX[:4]), at) and len(buffer) - at >= len(SANDBOX):
                return at
            end = buffer.find(b"\n", at)
            if end < 0 and not final:
                return at
            line = bytes(buffer[at : end if end >= 0 else len(buffer)]).rstrip()
            if line.startswith(b"DELIMITER "):
                if line not in (b"DELIMITER ;", b"DELIMITER ;;"):
                    raise self._refused(line)
                self._delimiter = line[10:]
            elif not (line == b"--" or line.startswith(b"-- ") or line == SANDBOX):
                return at
            at = end + 1 if end >= 0 else len(buffer)
        return at

    def _end(self, buffer: bytearray, looked: int) -> int:
        """Behind the delimiter that ends the statement at the buffer's beginning; -1 if it isn't there yet."""
        if buffer.startswith((b"--", b"DELIMITER")):
            return -1  # a line that isn't there to its end
        found = buffer.find(self._delimiter + b"\n", looked)
        return found + len(self._delimiter) if found >= 0 else -1

    # --- one statement -------------------------------------------------------------------------------------------

    def _judged(self, text: bytes) -> Statement | None:
        """None: nothing that this server executes."""
        if b"\0" in text:
            raise self._refused(text)
        charset = self._modes[b"character_set_client"]
        if charset not in PLAIN_CHARSETS and not text.isascii():
            raise self._refused(text)
        if found := WRAPPED.fullmatch(text) or BARE.fullmatch(text):
            if self._delimiter == b";":
                raise self._refused(text)
            # A body may hold the delimiter at a line's end, inside of a text.
            if not (self._mode_words() & OTHER_MODES or b"$$" in text):
                words(found[3])  # raises Unread if it continues
            return self._object(found[3].rstrip(), found[1] or b"")
        if text.startswith(b"INSERT "):
            return self._rows(text, INSERT)
        if text.startswith(b"UPDATE "):
            return self._rows(text, UPDATE)
        plain = self._executed(text).strip()
        if not plain:
            return None
        # In other modes texts end differently. Under them only the heads of created objects are read, and statements
        # without texts.
        if self._mode_words() & OTHER_MODES and not (plain.startswith(b"SET ") or DROP.fullmatch(plain)):
            raise self._refused(text)
        for form, make in self._forms():
            if match := form.fullmatch(plain):
                return make(match)
        if plain.startswith(b"CREATE TABLE "):
            return self._table(plain)
        words(plain)  # Unread: it may go on
        raise self._refused(text)

    def _forms(self) -> list[tuple[re.Pattern[bytes], Callable[[re.Match[bytes]], Statement]]]:
        return [
            (SET, self._set),
            (DROP, self._drop),
            *((form, self._fixed) for form in FIXED),
            (PLACEHOLDER, self._placeholder),
            (VIEW, self._view),
            (ALTER_DATABASE, self._alter_database),
            (SEQUENCE, self._sequence),
            (SETVAL, lambda m: Statement("other", m[0])),
        ]

    def _executed(self, text: bytes) -> bytes:
        """The text with the content of those comments that this server executes, and without all others."""
        if b"/*" not in text:
            return text
        kept: list[bytes] = []
        skipping: bool | None = None
        for word in words(text, spaces=True):
            if word.kind == "open":
                if skipping is not None:
                    raise self._refused(text)
                skipping = not self._runs(word.text)
            elif word.kind == "close":
                if skipping is None:
                    raise self._refused(text)
                skipping = None
            elif word.kind == "comment":
                raise self._refused(text)
            elif not skipping:
                kept.append(word.text)
        if skipping is not None:
            raise Unread
        return b"".join(kept)

    def _runs(self, opening: bytes) -> bool:
        version = int(opening.partition(b"!")[2] or 0)
        if opening.startswith(b"/*M"):
            return self._mariadb and version <= self._version
        # MariaDB has none of MySQL's features from 5.7 on.
        return version <= self._version and not (self._mariadb and 50700 <= version <= 99999)

    # --- a table ---------------------------------------------------------------------------------------------

    # --- objects that are created and not executed ---------------------------------------------------------------

    # --- names -----------------------------------------------------------------------------------------------
