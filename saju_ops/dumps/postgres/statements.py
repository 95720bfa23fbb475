"""Statements that pg_dump writes (9.6 to 18, plain, with our options), and those that `engine.py` adds.

A statement is let through by its first words; all others are refused. SET, SELECT, COPY and DO could do anything, so
their whole text must be as pg_dump or we write it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from saju_ops.dumps.engine import ForeignToDumps
from saju_ops.dumps.postgres.reader import Reader, Statement

_KINDS = (
    "SCHEMA", "TYPE", "DOMAIN", "FUNCTION", "PROCEDURE", "AGGREGATE", "OPERATOR", "CONVERSION", "COLLATION",
    "TEXT SEARCH", "FOREIGN DATA WRAPPER", "SERVER", "TABLE", "FOREIGN TABLE", "VIEW", "MATERIALIZED VIEW",
    "SEQUENCE", "INDEX", "TRIGGER", "EVENT TRIGGER", "PUBLICATION", "STATISTICS", "LANGUAGE", "PROCEDURAL LANGUAGE",
    "PROPERTY GRAPH",
)  # fmt: skip
_CREATED = {
    *_KINDS, "EXTENSION", "CAST", "TRANSFORM", "DEFAULT CONVERSION", "USER MAPPING", "UNLOGGED TABLE",
    "UNLOGGED SEQUENCE", "UNIQUE INDEX", "CONSTRAINT TRIGGER", "RULE", "POLICY", "ACCESS METHOD", "TRUSTED LANGUAGE",
    "TRUSTED PROCEDURAL LANGUAGE",
}  # fmt: skip
_ALTERED = {*_KINDS, "LARGE OBJECT", "DEFAULT PRIVILEGES", "ROUTINE"}
_COMMENTED = {
    *_KINDS, "EXTENSION", "CAST", "TRANSFORM", "LARGE OBJECT", "COLUMN", "CONSTRAINT", "RULE", "POLICY", "ROUTINE",
    "ACCESS METHOD",
}  # fmt: skip
# Kinds of objects that no schema holds, and that other databases share.
_SHARED = {"DATABASE", "TABLESPACE", "PARAMETER", "ROLE", "SUBSCRIPTION"}
TIMEOUTS = {"STATEMENT_TIMEOUT", "LOCK_TIMEOUT", "IDLE_IN_TRANSACTION_SESSION_TIMEOUT", "TRANSACTION_TIMEOUT"}
_SETTINGS = {
    *TIMEOUTS, "CLIENT_ENCODING", "STANDARD_CONFORMING_STRINGS", "ESCAPE_STRING_WARNING", "CHECK_FUNCTION_BODIES",
    "XMLOPTION", "CLIENT_MIN_MESSAGES", "ROW_SECURITY", "DEFAULT_TABLESPACE", "DEFAULT_TABLE_ACCESS_METHOD",
    "DEFAULT_WITH_OIDS", "SEARCH_PATH",
}  # fmt: skip
# A function in another language may do on the server whatever the server itself may.
TRUSTED = {"sql", "plpgsql", "plperl", "pltcl", "plv8", "plls", "plcoffee", "pllua", "plrust", "java"}

_NAME = rb'(?:[A-Za-z_\x80-\xff][\w$\x80-\xff]*|"(?:[^"]|"")+")'
_COPY = re.compile(
    rb"COPY (?:(" + _NAME + rb")\.)?(" + _NAME + rb")(?: \(" + _NAME + rb"(?:, " + _NAME + rb")*\))?"
    rb"(?: WITH OIDS)? +FROM stdin"
)
_TEXT = rb"(?:'(?:[^']|'')*'|E'(?:[^'\\]|\\.|'')*')"
_SELECTED = re.compile(
    rb"SELECT pg_catalog\.(?:set_config\('search_path', '', false\)|setval\(" + _TEXT + rb", -?\d+, (?:true|false)\)"
    rb"|lo_create\('?\d+'?\)|lo_open\('?\d+'?, \d+\)|lowrite\(0, " + _TEXT + rb"\)|lo_close\(0\))",
    re.DOTALL,
)
# Statistics of the planner's, which a dump of version 18 may hold: the target gathers its own.
_STATISTICS = re.compile(rb"SELECT \* FROM pg_catalog\.pg_restore_(?:relation|attribute)_stats\(")
# Written by `_settings` of catalogue.py.
_OURS = re.compile(
    r"BEGIN EXECUTE format\('((?:[^']|'')*)', current_database\(\)\);"
    r" EXCEPTION WHEN OTHERS THEN RAISE WARNING 'a setting of the database was left out'; END",
    re.DOTALL,
)
_SETTING = re.compile(
    r'ALTER (?:DATABASE|ROLE "(?:[^"]|"")+" IN DATABASE) %I SET "(?:[^"]|"")+"(?:\."(?:[^"]|"")+")*'
    r" TO '(?:[^']|'')*'(?:, '(?:[^']|'')*')*",
    re.DOTALL,
)
_SYSTEM = {"pg_catalog", "information_schema", "pg_toast"}


class Sorter:
    """Says what each statement is, in the order of the dump. Raises ForeignToDumps for a statement that pg_dump doesn't
    write.

    run        to be executed as it is
    copy       rows follow
    nothing    means nothing to a restore: transactions (there is one), a comment on the database, statistics
    setting    SET of `words[1]`
    rights     an owner or a grant
    """

    def __init__(self) -> None:
        # Statements that may follow inside SET SESSION AUTHORIZATION … GRANT … RESET SESSION AUTHORIZATION, in which
        # pg_dump writes grants by another role than the owner.
        self._expected: tuple[str, ...] = ()

    def sort(self, statement: Statement) -> str:
        words = statement.words
        first = words[0]
        by = getattr(self, f"_{first.lower()}") if first in _FIRST else None
        if by is None or (self._expected and first not in self._expected):
            raise foreign(words)
        found = str(by(statement, words))
        if first == "SET" and found == "rights":
            self._expected = ("GRANT", "REVOKE")
        elif self._expected:
            self._expected = () if first == "RESET" else ("GRANT", "REVOKE", "RESET")
        return found

    def end(self) -> None:
        if self._expected:
            raise ForeignToDumps("a SET SESSION AUTHORIZATION without its end")

    def _set(self, statement: Statement, words: tuple[str, ...]) -> str:
        if words[1:3] == ("SESSION", "AUTHORIZATION") and len(words) == 4 and words[3] != "DEFAULT":
            return "rights"
        if len(words) < 4 or words[1] not in _SETTINGS or words[2] not in ("=", "TO"):
            raise foreign(words)
        _, _, value = statement.text.partition(b" = ")
        if words[1] == "CLIENT_ENCODING" and value not in (b"'UTF8'", b"'SQL_ASCII'"):
            raise ForeignToDumps("another character set than those that dumps are asked for")
        if words[1] == "STANDARD_CONFORMING_STRINGS" and value not in (b"on", b"off"):
            raise foreign(words)
        return "setting"

    def _reset(self, statement: Statement, words: tuple[str, ...]) -> str:
        if words != ("RESET", "SESSION", "AUTHORIZATION") or not self._expected:
            raise foreign(words)
        return "rights"

    def _begin(self, statement: Statement, words: tuple[str, ...]) -> str:
        if len(words) > 1:
            raise foreign(words)
        return "nothing"

    _commit = _begin

    def _select(self, statement: Statement, words: tuple[str, ...]) -> str:
        if _STATISTICS.match(statement.text):
            return "nothing"
        if not _SELECTED.fullmatch(statement.text):
            raise foreign(words)
        return "run"

    def _copy(self, statement: Statement, words: tuple[str, ...]) -> str:
        found = _COPY.fullmatch(statement.text)
        if not found:
            raise foreign(words)
        schema, name = ((part or b"").strip(b'"').lower() for part in found.groups())
        if schema.decode(errors="replace") in _SYSTEM or (not schema and name.startswith(b"pg_")):
            raise ForeignToDumps("rows of a system catalogue")
        return "copy"

    def _do(self, statement: Statement, words: tuple[str, ...]) -> str:
        literal = statement.text.removeprefix(b"DO ").decode(errors="surrogateescape")
        if re.fullmatch(r"'(?:[^']|'')*'", literal, re.DOTALL):
            block = _OURS.fullmatch(literal[1:-1].replace("''", "'"))
            pattern = block[1].replace("''", "'") if block else ""
            # A value may hold what format() would replace; it is doubled there.
            plain = pattern.replace("%%", "")
            if plain.count("%") == plain.count("%I") == 1 and _SETTING.fullmatch(pattern):
                return "run"
        raise foreign(words)

    def _create(self, statement: Statement, words: tuple[str, ...]) -> str:
        at = 3 if words[1:3] == ("OR", "REPLACE") else 1
        kind = _kind(words[at:], _CREATED)
        at += len(kind.split())
        rest = words[at:]
        if not kind or not rest:
            raise foreign(words)
        name = statement.tokens[at]
        if name.kind in ("word", "name") and name.value.strip('"').lower() in _SYSTEM and rest[1:2] == (".",):
            raise ForeignToDumps("something new in a system catalogue")
        if not _fits(kind, rest):
            raise foreign(words)
        return "run"

    def _alter(self, statement: Statement, words: tuple[str, ...]) -> str:
        kind = _kind(words[1:], _ALTERED)
        if not kind or words[1:3] == ("TABLE", "ALL"):
            raise foreign(words)
        return "rights" if kind == "DEFAULT PRIVILEGES" or words[-3:-1] == ("OWNER", "TO") else "run"

    def _comment(self, statement: Statement, words: tuple[str, ...]) -> str:
        if words[1:3] == ("ON", "DATABASE"):
            return "nothing"
        if words[1:2] != ("ON",) or not _kind(words[2:], _COMMENTED):
            raise foreign(words)
        return "run"

    def _security(self, statement: Statement, words: tuple[str, ...]) -> str:
        on = words.index("ON") if "ON" in words else 0
        if words[1:2] != ("LABEL",) or not on:
            raise foreign(words)
        if words[on + 1 : on + 2] == ("DATABASE",):
            return "nothing"
        if not _kind(words[on + 1 :], _COMMENTED):
            raise foreign(words)
        return "run"

    def _grant(self, statement: Statement, words: tuple[str, ...]) -> str:
        """Rights on something, never a role to a role."""
        to = "TO" if words[0] == "GRANT" else "FROM"
        if "ON" not in words or to not in words or not words.index("ON") < words.index(to):
            raise foreign(words)
        if words[words.index("ON") + 1] in _SHARED:
            raise foreign(words)
        return "rights"

    _revoke = _grant

    def _refresh(self, statement: Statement, words: tuple[str, ...]) -> str:
        if words[1:3] != ("MATERIALIZED", "VIEW"):
            raise foreign(words)
        return "run"


_FIRST = {
    "SET", "RESET", "BEGIN", "COMMIT", "SELECT", "COPY", "DO", "CREATE", "ALTER", "COMMENT", "SECURITY", "GRANT",
    "REVOKE", "REFRESH",
}  # fmt: skip
# Words that a refusal may repeat; any other may be somebody's.
_SHOWN = _FIRST | {
    "DROP", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "LOAD", "SYSTEM", "ROLE", "USER", "DATABASE", "TABLESPACE",
    "SUBSCRIPTION", "EXTENSION", "CALL", "EXECUTE", "PREPARE", "VACUUM", "LISTEN", "NOTIFY", "LOCK", "ROLLBACK",
    "SAVEPOINT", "SESSION", "AUTHORIZATION", "GROUP", "TABLE", "SCHEMA", "LANGUAGE", "WITH", "EXPLAIN", "IMPORT",
    "ANALYZE", "REINDEX", "CLUSTER", "CHECKPOINT", "DISCARD", "DECLARE", "FETCH", "MERGE", "VALUES", "REASSIGN",
}  # fmt: skip


def foreign(words: tuple[str, ...]) -> ForeignToDumps:
    shown: list[str] = []
    for word in words[:3]:
        if word not in _SHOWN:
            break
        shown.append(word)
    return ForeignToDumps(f"a statement {' '.join(shown)} …" if shown else "a statement of another kind")


def _kind(words: tuple[str, ...], known: set[str]) -> str:
    """The longest of the known kinds that the words begin with."""
    for count in (3, 2, 1):
        if (kind := " ".join(words[:count])) in known and len(words) >= count:
            return kind
    return ""


def _fits(kind: str, rest: tuple[str, ...]) -> bool:
    """Whether the words after the kind are in the form in which pg_dump writes them, where there are others."""
    if rest[:3] == ("IF", "NOT", "EXISTS"):
        rest = rest[3:]
    if kind == "SCHEMA" or kind.endswith("LANGUAGE"):
        return len(rest) == 1
    if kind == "EXTENSION":
        return len(rest) == 1 or (len(rest) == 4 and rest[1:3] == ("WITH", "SCHEMA"))
    # CREATE TABLE … AS would run a query.
    return not (kind.endswith("TABLE") and "AS" in rest)


def languages(statement: Statement) -> set[str]:
    """The languages of a function or procedure that is created, as they are written."""
    words = statement.words
    if words[0] != "CREATE" or not {"FUNCTION", "PROCEDURE"} & {*words[1:4]}:
        return set()
    found = set()
    # A body that is no text comes last, and may contain any name.
    for before, token in zip(statement.tokens, statement.tokens[1:], strict=False):
        if before.kind != "word":
            continue
        if before.value == "RETURN" or (before.value == "BEGIN" and token.value == "ATOMIC"):
            break
        if before.value == "LANGUAGE":
            text = statement.text[token.start : token.end].decode(errors="replace")
            found.add(text.strip("'\"") if token.kind != "word" else text.lower())
    return found


def statements(
    chunks: Iterator[bytes], untrusted: frozenset[str] = frozenset()
) -> Iterator[tuple[str, Statement, Iterator[bytes]]]:
    """Each statement, its kind, and the rows of a COPY, which are read before the next one is asked for. Functions in
    languages other than the trusted ones and the `untrusted` given here are not let through."""
    reader, sorter = Reader(chunks), Sorter()
    for statement in reader:
        sort = sorter.sort(statement)
        if not languages(statement) <= TRUSTED | untrusted:
            raise ForeignToDumps("a function in a language that can do anything on the server")
        if sort == "setting" and statement.words[1] == "STANDARD_CONFORMING_STRINGS":
            reader.escapes = statement.words[3] == "OFF"
        yield sort, statement, reader.rows() if sort == "copy" else iter(())
    sorter.end()


def examined(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The very chunks; raises ForeignToDumps as soon as one holds what pg_dump does not write."""
    seen: list[bytes] = []

    def noted() -> Iterator[bytes]:
        for chunk in chunks:
            seen.append(chunk)
            yield chunk

    for _, _, rows in statements(noted()):
        for _ in rows:
            yield from seen
            seen.clear()
        yield from seen
        seen.clear()
    yield from seen
