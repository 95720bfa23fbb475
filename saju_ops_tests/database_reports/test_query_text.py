"""The text of a statement without any value: what normalisation by a server leaves in it is taken out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saju_ops.database_reports.query_text import LONGEST, is_query, without_values


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("SELECT `id` , `name` FROM `users` WHERE `id` = ?", "SELECT id , name FROM users WHERE id = ?"),
        ("SELECT a FROM t WHERE b = $1 AND c = 12.5e3", "SELECT a FROM t WHERE b = $1 AND c = ?"),
        ("SELECT a /* kim */ FROM t -- lee\nWHERE b = $1", "SELECT a FROM t WHERE b = $1"),
        ("SELECT /* a /* nested */ kim */ b FROM t", "SELECT b FROM t"),
        ("SELECT a FROM t /* kim", "SELECT a FROM t"),
        ("SELECT a FROM t WHERE b = 'kim' AND c = $1", "SELECT a FROM t WHERE b = …"),
        (r"SELECT a FROM t WHERE b = 'x\' OR c = ' kim'", "SELECT a FROM t WHERE b = …"),
        ("SELECT a FROM t WHERE b = $tag$kim$tag$", "SELECT a FROM t WHERE b = …"),
        ("SELECT a FROM t WHERE b = $$kim$$", "SELECT a FROM t WHERE b = …"),
        ("SELECT a FROM t WHERE b = E'k\\'im' OR U&'kim' = N'kim'", "SELECT a FROM t WHERE b = …"),
        ("SELECT a FROM t WHERE b = 0x6b696d AND x1 = 1_000", "SELECT a FROM t WHERE b = ? AND x1 = ?"),
        ('SELECT "Kim Lee", "상담" FROM "t"', 'SELECT ?, "상담" FROM t'),
        ("SELECT 김철수, 상담 FROM t", "SELECT ?, 상담 FROM t"),
        ('SELECT a FROM t WHERE "kim', "SELECT a FROM t WHERE …"),
    ],
)  # fmt: skip
def test_what_is_left_of_a_text(text: str, shown: str) -> None:
    assert without_values(text, {"상담"}) == shown


def test_a_long_text_is_cut() -> None:
    assert len(without_values("SELECT " + ", ".join(["a"] * 900))) == LONGEST


@given(st.text(alphabet="'\"`$-/*\\ aE1\n한", max_size=30))
def test_any_text_gives_a_line_without_a_quote_of_a_string(text: str) -> None:
    shown = without_values(text)
    assert "'" not in shown
    assert "\n" not in shown
    assert "/*" not in shown
    assert "한" not in shown


@pytest.mark.parametrize(
    "text", ["SELECT 1", "(SELECT 1)", "/* a */ with x as (select 1) select 1", "-- a\n update t set a=1"]
)
def test_what_reads_or_changes_rows_is_a_query(text: str) -> None:
    assert is_query(text)


@pytest.mark.parametrize(
    "text",
    ["CREATE USER kim PASSWORD 'x'", "ALTER ROLE kim PASSWORD 'x'", "SET a = 'x'", "EXECUTE p('x')", "CALL p('x')",
     "DO $$ kim $$", "COPY t FROM '/kim'", "EXPLAIN SELECT 1", "PREPARE p AS SELECT 'x'", "", "/* SELECT", "COMMIT"],
)  # fmt: skip
def test_what_may_hold_values_elsewhere_is_none(text: str) -> None:
    assert not is_query(text)
