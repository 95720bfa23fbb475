"""The text of a statement without any value of a row: what a report may show.

The servers normalise statements, but not all the way. PostgreSQL keeps comments, the literals of utility statements,
and those of a statement whose entry was evicted while it ran. MySQL keeps every identifier, also one that is somebody's
name (`SELECT 1 AS "김철수"` under ANSI_QUOTES). So comments are removed, numbers become ?, the text ends at the first
string literal, and a name is kept only where it is a plain word or a name of the database's own.

Refuses, by `is_query`, every statement that neither reads nor changes rows.
"""

from __future__ import annotations

import re
from collections.abc import Collection

LONGEST = 500
QUERIES = ("SELECT", "INSERT", "UPDATE", "DELETE", "REPLACE", "MERGE", "WITH", "VALUES", "TABLE")
_FIRST = re.compile(r"[\s(]*([A-Za-z]+)")
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_$]{0,63}")
_TOKEN = re.compile(
    r"""
    (?P<line>--[^\n]*)
    | (?P<comment>/\*)
    | (?P<string>(?:[eEbBxXnN]|[uU]&)?'|\$(?:[^\W\d]\w*)?\$)
    | (?P<parameter>\$\d+|\?)
    | (?P<quoted>"(?:[^"]|"")*"|`(?:[^`]|``)*`)
    | (?P<word>[^\W\d][\w$]*)
    | (?P<number>\d[\w.]*)
    | (?P<space>\s+)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_BESIDE = re.compile(r"/\*|\*/")


def is_query(text: str) -> bool:
    """Whether it reads or changes rows; no DDL, no account, no setting, no EXECUTE, whose texts may hold values."""
    first = _FIRST.match(_without_comments_before(text))
    return first is not None and first[1].upper() in QUERIES


def without_values(text: str, known: Collection[str] = ()) -> str:
    """One line of at most LONGEST characters. `known` are names of the database: tables, columns."""
    parts: list[str] = []
    position = 0
    while position < len(text):
        found = _TOKEN.match(text, position)
        assert found is not None
        kind, token, position = str(found.lastgroup), found[0], found.end()
        if kind == "comment":
            position = _end_of_comment(text, position)
            kind = "space"
        if kind == "string" or (kind == "other" and token in "'\"`"):
            # What follows can't be separated from the literal for certain: a backslash may or may not end it.
            parts.append("…")
            break
        parts.append(_kept(kind, token, known))
    line = " ".join("".join(parts).split())
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def _kept(kind: str, token: str, known: Collection[str]) -> str:
    if kind in ("space", "line"):
        return " "
    if kind == "number":
        return "?"
    if kind == "quoted":
        name = token[1:-1].replace(token[0] * 2, token[0])
        if _PLAIN.fullmatch(name):
            return name
        return token if name in known else "?"
    if kind == "word":
        return token if _PLAIN.fullmatch(token) or token in known else "?"
    return token


def _end_of_comment(text: str, position: int) -> int:
    """Behind the comment that began before `position`; PostgreSQL's comments nest. One without an end takes all."""
    depth = 1
    while depth:
        mark = _BESIDE.search(text, position)
        if mark is None:
            return len(text)
        depth += 1 if mark[0] == "/*" else -1
        position = mark.end()
    return position


def _without_comments_before(text: str) -> str:
    position = 0
    while found := re.compile(r"[\s(]*(--[^\n]*|/\*)").match(text, position):
        position = _end_of_comment(text, found.end()) if found[1] == "/*" else found.end()
    return text[position:]
