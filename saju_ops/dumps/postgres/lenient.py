"""Loads objects that a PostgreSQL server holds but doesn't accept from its own dump, as an administrator would; names
them.

pg_dump writes each thing by itself, with an empty search path and the tables in the order of their names. So some of it
can't be executed although nothing is wrong with the data:

a function that names things without a schema   its index, constraint or materialized view is made with the schemas of
                                                the database as search path; rows always are, once there are functions
a CHECK that executes a function                is put back once all rows are there: the function may read other tables
a CHECK or foreign key that rows break          is put back NOT VALID, as the server holds it to new rows alone
an index, constraint or materialized view       that can't be made all the same is left out
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import psycopg

from saju_ops.dumps.postgres.catalogue import CHECKS, EVERYWHERE
from saju_ops.dumps.postgres.reader import Statement
from saju_ops.dumps.programs import words_of

# Classes of errors whose cause is in the dump itself: a name, a value, a constraint, a function's own words.
OWN_FAULT = ("21", "22", "23", "2F", "38", "39", "42", "55000", "P0")
DENIED = "42501"
BROKEN_BY_ROWS = ("23503", "23514")
# Syntax; a column, table or name that isn't there or is there twice. If the error is about a statement itself, and not
# about a function that it executes, no server can hold such an object: so pg_dump didn't write it.
NEVER_HELD = ("42601", "42703", "42P01", "42P07", "42710")
WITH_SCHEMAS = "made with every schema in the search path, since a function of theirs names things without a schema"
AFTER_ROWS = "put back when all rows were there, since they execute a function"
NOT_VALID = "put back NOT VALID, since rows break them"
LEFT_OUT = "left out, since they can't be made"
NAMED = 8
_NO_PATH = "SELECT pg_catalog.set_config('search_path', '', false)"


class Lenient:
    """`send` executes one statement, `answer` a query, both in the load's transaction."""

    def __init__(self, send: Callable[[bytes], None], answer: Callable[[str], list[tuple[Any, ...]]]) -> None:
        self._send, self._answer = send, answer
        self._functions = False
        self._checks: list[tuple[str, str, bool, str]] = []
        # The names of objects, by what was done with them.
        self._done: dict[str, list[str]] = {}
        self._lost = False
        self._refused: psycopg.Error | None = None
        # Names, as in `Contents.definitions`, of objects that differ from the dump.
        self.adopted: set[str] = set()

    @property
    def sentences(self) -> list[str]:
        return [f"{what}: {_listed(things)}" for what, things in self._done.items()]

    def run(self, statement: Statement) -> None:
        words = statement.words
        self._functions |= words[0] == "CREATE" and bool({"FUNCTION", "PROCEDURE"} & {*words[1:4]})
        if found := _optional(statement):
            self.rows_end()
            self._make(statement.text, *found)
        elif self._lost and _follows(words):
            self._try(statement.text)
        else:
            self._send(statement.text)

    def rows_begin(self, copy: Statement) -> None:
        """Called before the rows of a table. Lets functions that they execute find what they name."""
        # Old dumps set a search path of their own, in which the table is looked for.
        if not self._functions or "." not in copy.words[:3]:
            return
        while found := self._answer(CHECKS):
            # Dropping a constraint may free another that was merged into it.
            for drop, *rest in found:
                self._send(drop.encode())
                self._checks.append((rest[0], rest[1], rest[2], rest[3]))
        self._answer(EVERYWHERE)

    def rows_end(self) -> None:
        """When all rows are there. Again is nothing."""
        checks, self._checks = self._checks, []
        if self._functions:
            self._answer(_NO_PATH)
        # Children first: a parent's CHECK is merged with theirs.
        for add, comment, commented, name in reversed(checks):
            if self._make(add.encode(), name.removeprefix("constraint "), {name}, AFTER_ROWS) and commented:
                self._send(comment.encode())

    def _make(self, text: bytes, label: str, names: set[str], note: str = "") -> bool:
        """Whether it was made, be it in another way."""
        state, said = self._try(text)
        if not state:
            self._note(note, label)
            return True
        state, said = self._try(text, everywhere=True)
        if not state:
            self._note(WITH_SCHEMAS, label)
            return True
        if state in NEVER_HELD and self._refused is not None and not self._refused.diag.context:
            raise self._refused
        self.adopted |= names
        if state in BROKEN_BY_ROWS and not self._try(text + b" NOT VALID", everywhere=True)[0]:
            self._note(NOT_VALID, label)
            return True
        self._note(LEFT_OUT, f"{label} ({said})")
        self._lost = True
        return False

    def _try(self, text: bytes, *, everywhere: bool = False) -> tuple[str, str]:
        """Empty, or the code and words by which the server refused it."""
        self._send(b"SAVEPOINT saju_ops_made")
        try:
            if everywhere:
                self._answer(EVERYWHERE)
            self._send(text)
        except psycopg.Error as error:
            state = str(getattr(error, "sqlstate", "") or "")
            if not state.startswith(OWN_FAULT) or state == DENIED:
                raise
            self._send(b"ROLLBACK TO SAVEPOINT saju_ops_made")
            self._refused = error
            first = (error.diag.message_primary or type(error).__name__).splitlines()[0]
            return state, words_of(f"ERROR: {first}").removeprefix("ERROR: ")
        if everywhere:
            self._answer(_NO_PATH)
        self._send(b"RELEASE SAVEPOINT saju_ops_made")
        return "", ""

    def _note(self, what: str, label: str) -> None:
        if what:
            self._done.setdefault(what, []).append(label)


def _optional(statement: Statement) -> tuple[str, set[str]] | None:
    """A kind of object that a dump makes after the rows and can do without: its description, and its names in
    `Contents.definitions`."""
    text, words = statement.text.decode(errors="surrogateescape"), statement.words
    if words[:3] == ("REFRESH", "MATERIALIZED", "VIEW"):
        return f"materialized view {text.split(None, 3)[3]}", set()
    if found := _INDEX.match(text):
        name = f"{found['schema']}.{found['name']}"
        return f"index {name}", {f"index {name}"}
    if found := _CONSTRAINT.match(text):
        name, of = f"{found['schema']}.{found['name']}", f"{found['schema']}.{found['of']}"
        return f"constraint {found['name']} on {of}", {f"constraint {name} on {of}", f"index {name}"}
    return None


def _follows(words: tuple[str, ...]) -> bool:
    """Whether a statement may be about an index or constraint that was left out."""
    return (
        words[:2] == ("ALTER", "INDEX")
        or (words[:2] == ("COMMENT", "ON") and words[2] in ("INDEX", "CONSTRAINT"))
        or (words[:2] == ("ALTER", "TABLE") and bool({"CLUSTER", "REPLICA"} & {*words}))
    )


_NAME = r'(?:"(?:[^"]|"")+"|[^\W\d][\w$]*)'
_INDEX = re.compile(
    rf"CREATE (?:UNIQUE )?INDEX (?P<name>{_NAME}) ON (?:ONLY )?(?P<schema>{_NAME})\.{_NAME} USING ", re.DOTALL
)
_CONSTRAINT = re.compile(
    rf"ALTER (?:TABLE|DOMAIN) (?:ONLY )?(?P<schema>{_NAME})\.(?P<of>{_NAME})\s+ADD CONSTRAINT (?P<name>{_NAME}) ",
    re.DOTALL,
)


def _listed(things: list[str]) -> str:
    more = f" and {len(things) - NAMED} more" if len(things) > NAMED else ""
    return ", ".join(things[:NAMED]) + more
