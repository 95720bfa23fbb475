"""Judges one statement of a dump by the forms that dump programs write."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from saju_ops.dumps.engine import MARKER, ForeignToDumps
from saju_ops.dumps.mysql.forms import (
    ANSI_MODES,
    ASSIGNMENT,
    ENGINES,
    EVENT,
    INSERT,
    MIXED_CHARSETS,
    NEVER_IN_TABLES,
    OPTIONS,
    OTHER_MODES,
    PLAIN_CHARSETS,
    VARIABLES,
)
from saju_ops.dumps.mysql.head import _Head
from saju_ops.dumps.mysql.words import Unread, Word, chains, quoted, unqualified, without, words

# How a session of ours begins.
FIRST_MODE = b"NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES"


class StatementJudge:
    """Gives a statement as it may be run, or refuses it."""

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
