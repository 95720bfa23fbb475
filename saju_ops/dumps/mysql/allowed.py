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
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from saju_ops.dumps.engine import MARKER, ForeignToDumps
from saju_ops.dumps.mysql.forms import (
    ALTER_DATABASE,
    ANSI_MODES,
    ASSIGNMENT,
    BARE,
    DROP,
    ENGINES,
    EVENT,
    FIXED,
    INSERT,
    MIXED_CHARSETS,
    NEVER_IN_TABLES,
    OPTIONS,
    OTHER_MODES,
    PLACEHOLDER,
    PLAIN_CHARSETS,
    SANDBOX,
    SEQUENCE,
    SET,
    SETVAL,
    UPDATE,
    VARIABLES,
    VIEW,
    WRAPPED,
)
from saju_ops.dumps.mysql.words import Unread, Word, chains, name_of, quoted, unqualified, without, words

# Bytes: the dump programs are given 1G for a row.
LONGEST = (1 << 30) + (1 << 20)
# Lines at which a statement may seem to end: each has it read again from its beginning.
MOST_ENDS = 1_000
# How a session of ours begins.
FIRST_MODE = b"NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES"


@dataclass(frozen=True)
class Statement:
    """What is executed. `kind`: rows, view, placeholder, trigger, function, procedure, package, event …, other."""

    kind: str
    sql: bytes
    name: str = ""
    # As the dump has it (DEFINER=`a`@`b`), and the text on its two sides, for kinds that have one.
    definer: bytes = b""
    before: bytes = b""
    after: bytes = b""

    def by(self, definer: bytes) -> bytes:
        """The statement with another definer, or none."""
        return self.before + (definer + b" " if definer else b"") + self.after


class Statements:
    """Reads a dump that is to go into the database `target`. Raises ForeignToDumps."""

    def __init__(
        self, source: str, target: str, *, mariadb: bool, version: int, folded: bool = False,
        tables: Iterable[str] = (),
    ) -> None:  # fmt: skip
        """`version`: as the server's comments count it, such as 90704 or 101106. `folded`: names that differ in their
        case alone are one there. `tables`: those that are in the target already."""
        self._source, self._target = source, target
        self._mariadb, self._version, self._folded = mariadb, version, folded
        self._modes = {b"sql_mode": FIRST_MODE, b"character_set_client": b"utf8mb4"}
        self._kept: dict[bytes, tuple[bytes, bytes]] = {}
        self._delimiter = b";"
        self._tables = {self._key(quoted(name)) for name in tables}
        # What the programs make before each view, so that others may select from it: a table, or a view of numbers.
        self._announced: set[bytes] = set()
        self._triggers: set[tuple[bytes, str]] = set()
        self._views_made = False
        # Events that the dump switches on; none is here.
        self.events: list[str] = []

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
        # MariaDB knows nothing of what MySQL learned from 5.7 on.
        return version <= self._version and not (self._mariadb and 50700 <= version <= 99999)

    def _rows(self, text: bytes, form: re.Pattern[bytes]) -> Statement:
        found = form.fullmatch(text)
        mixed = self._modes[b"character_set_client"] not in PLAIN_CHARSETS
        if found is None or mixed or self._mode_words() & OTHER_MODES:
            raise self._refused(text)
        key = self._key(found[1])
        verb = "INSERT" if form is INSERT else "UPDATE"
        if key not in self._tables or (key, verb) in self._triggers or (verb == "INSERT" and self._views_made):
            raise self._refused(text)
        return Statement("rows", text, self._shown(found[1]))

    def _set(self, match: re.Match[bytes]) -> Statement:
        for target, given in ASSIGNMENT.findall(match[1]):
            name = target.lower().removeprefix(b"@@").removeprefix(b"session.")
            value = given.lower()
            read = value.removeprefix(b"@@").removeprefix(b"session.") if value.startswith(b"@@") else b""
            if name.startswith(b"@"):
                if read not in VARIABLES:
                    raise self._refused(match[0])
                self._kept[name] = (read, self._modes.get(read, b""))
                continue
            if name not in VARIABLES or read:
                raise self._refused(match[0])
            if value.startswith(b"@"):
                of, kept = self._kept.get(value, (b"", b""))
                if of != name:
                    raise self._refused(match[0])
            else:
                kept = given.strip(b"'")
            if name in self._modes:
                self._modes[name] = self._mode(name, kept, match[0])
        return Statement("other", match[0])

    def _mode(self, name: bytes, value: bytes, text: bytes) -> bytes:
        if name == b"character_set_client":
            value = value.lower()
            if value not in PLAIN_CHARSETS | MIXED_CHARSETS:
                raise self._refused(text)
        elif value.isdigit() or not re.fullmatch(rb"[\w,]*", value):
            raise self._refused(text)
        return value

    def _mode_words(self) -> set[bytes]:
        return set(self._modes[b"sql_mode"].upper().split(b","))

    def _drop(self, match: re.Match[bytes]) -> Statement:
        self._own(match[2], match[0])
        if match[1] == b"TABLE":
            self._tables.discard(self._key(match[2]))
        return Statement("other", match[0])

    def _fixed(self, match: re.Match[bytes]) -> Statement:
        if match.lastindex and self._key(match[1]) not in self._tables:
            raise self._refused(match[0])
        if match[0].startswith(b"SET NAMES"):
            self._modes[b"character_set_client"] = match[0].rpartition(b" ")[2]
        return Statement("other", match[0])

    def _placeholder(self, match: re.Match[bytes]) -> Statement:
        self._own(match[1], match[0])
        self._tables.discard(self._key(match[1]))
        self._announced.add(self._key(match[1]))
        return Statement("placeholder", match[0], self._shown(match[1]))

    def _view(self, match: re.Match[bytes]) -> Statement:
        name, body = match[4], match[5]
        self._own(name, match[0])
        if self._key(name) not in self._announced:
            raise self._refused(match[0])
        for word in words(body):
            if word.kind in ("open", "close") or word.upper in (b";", b"INTO", b"OUTFILE", b"DUMPFILE", b"LOAD_FILE"):
                raise self._refused(match[0])
        self._tables.discard(self._key(name))
        self._views_made = True
        before = match[0][: match.start(1) - match.start()] if match[1] else match[0].split(b"SQL SECURITY")[0]
        cut = match.end(1) if match[1] else len(before)
        head = match.string[cut : match.start(5)].lstrip()
        return self._made("view", name, match[1] or b"", before, head + unqualified(body, self._source))

    def _made(self, kind: str, name: bytes, definer: bytes, before: bytes, after: bytes) -> Statement:
        whole = before + (definer + b" " if definer else b"") + after
        return Statement(kind, whole, self._shown(name), definer, before, after)

    def _alter_database(self, match: re.Match[bytes]) -> Statement:
        if match[1] != quoted(self._source):
            raise self._refused(match[0])
        return Statement("other", b"ALTER DATABASE " + quoted(self._target) + match[2])

    def _sequence(self, match: re.Match[bytes]) -> Statement:
        self._own(match[1], match[0])
        if match[2].upper() not in ENGINES or re.search(rb"\bLIKE\b", match[0][match.end(1) :], re.IGNORECASE):
            raise self._refused(match[0])
        return Statement("other", match[0])

    # --- a table ---------------------------------------------------------------------------------------------

    def _table(self, text: bytes) -> Statement:
        text = unqualified(text, self._source)
        found = words(text)
        if len(found) < 5 or found[2].kind != "name" or found[3].text != b"(" or chains(found):
            raise self._refused(text, chained=bool(chains(found)))
        self._own(found[2].text, text)
        if found[4].upper in (b"LIKE", b"SELECT", b"WITH", b"TABLE", b"VALUES"):
            raise self._refused(text)
        depth = 0
        for at, word in enumerate(found[3:], 3):
            depth += {b"(": 1, b")": -1}.get(word.text, 0)
            if word.kind in ("open", "close", "comment") or word.text == b";" or depth < 0:
                raise self._refused(text)
            self._look_at(found, at, depth, text)
        if depth:
            raise Unread
        self._tables.add(self._key(found[2].text))
        self._announced.add(self._key(found[2].text))
        return Statement("table", text, self._shown(found[2].text))

    def _look_at(self, found: list[Word], at: int, depth: int, text: bytes) -> None:
        word, before = found[at], found[at - 1]
        given = before.text == b"="
        if word.kind == "word" and NEVER_IN_TABLES.fullmatch(word.upper):
            raise self._refused(text)
        if before.upper == b"ENGINE" or (given and found[at - 2].upper == b"ENGINE"):
            allowed = {b"=", *ENGINES}
        elif depth == 0 and word.kind == "word" and not given:
            allowed = OPTIONS
            if before.upper in (b"CHARSET", b"SET", b"COLLATE", b"TABLESPACE", b"PARTITION"):
                return
        else:
            return
        if word.text.strip(b"'\"`").upper() not in allowed:
            raise self._refused(text)

    # --- objects that are created and not executed ---------------------------------------------------------------

    def _object(self, text: bytes, definer: bytes) -> Statement:
        ansi = bool(self._mode_words() & ANSI_MODES)
        if text.startswith(b"EVENT"):
            return self._event(text, definer)
        head = _Head(text, ansi, lambda: self._refused(text))
        kind = head.word(b"AGGREGATE", b"FUNCTION", b"PROCEDURE", b"PACKAGE", b"LIBRARY", b"TRIGGER")
        if kind == b"AGGREGATE":
            kind = head.word(b"FUNCTION")
        if kind == b"PACKAGE" and head.peek() == b"BODY":
            kind += b" " + head.word(b"BODY")
        if head.peek() == b"IF":
            for expected in (b"IF", b"NOT", b"EXISTS"):
                head.word(expected)
        name = head.name(self._source, self._folded)
        if kind == b"TRIGGER":
            head.word(b"BEFORE", b"AFTER")
            events = [head.word(b"INSERT", b"UPDATE", b"DELETE")]
            while head.peek() == b"OR":
                head.word(b"OR")
                events.append(head.word(b"INSERT", b"UPDATE", b"DELETE"))
            head.word(b"ON")
            table = head.name(self._source, self._folded)
            for expected in (b"FOR", b"EACH", b"ROW"):
                head.word(expected)
            key = self._key(table)
            if key not in self._tables:
                raise self._refused(text)
            self._triggers |= {(key, event.decode()) for event in events}
        elif kind in (b"FUNCTION", b"PROCEDURE"):
            # Not RETURNS … SONAME, which loads a library into the server.
            oracle = (b"RETURN", b"AS", b"IS", b"AUTHID") if b"ORACLE" in self._mode_words() else ()
            if head.peek() not in (b"(", *oracle):
                raise self._refused(text)
        return self._made(kind.decode().lower(), name, definer, b"CREATE ", without(text, head.cuts))

    def _event(self, text: bytes, definer: bytes) -> Statement:
        found = EVENT.match(text)
        if found is None:
            raise self._refused(text)
        name = self._shown(found[1])
        if found[2] == b"ENABLE":
            self.events.append(name)
        off = text[: found.start(2)] + b"DISABLE" + text[found.end(2) :]
        return self._made("event", found[1], definer, b"CREATE ", off)

    # --- names -----------------------------------------------------------------------------------------------

    def _own(self, name: bytes, text: bytes) -> None:
        if name.strip(b"`").lower() == MARKER.encode():
            raise self._refused(text)

    def _shown(self, name: bytes) -> str:
        quote = name[:1]
        return (name[1:-1].replace(quote * 2, quote) if quote in b'`"' else name).decode(errors="replace")

    def _key(self, name: bytes) -> bytes:
        shown = self._shown(name)
        if not self._folded:
            return shown.encode()
        # More than a server does: two names that it may take for one must be one here.
        apart = unicodedata.normalize("NFKD", shown).casefold()
        return "".join(c for c in apart if not unicodedata.combining(c)).encode()

    def _refused(self, text: bytes, *, chained: bool = False) -> ForeignToDumps:
        begin = re.sub(rb"/\*M?!\d* ?|\*/", b"", text[:300])
        named = b" ".join(re.findall(rb"[A-Za-z\\!.]+", begin)[:2]).decode()[:40] or "no words"
        why = ", in which another database is named" if chained else ""
        return ForeignToDumps(f"a statement that is none of a dump, or that leaves its database ({named} …{why})")


class _Head:
    """The head of a routine or trigger, word by word."""

    def __init__(self, text: bytes, ansi: bool, refused: Callable[[], Exception]) -> None:
        self._refused = refused
        self.cuts: list[tuple[int, int]] = []
        # The head is at the beginning; of what follows it is only needed that it is not read.
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
