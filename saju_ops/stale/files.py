"""The files of analysis jobs: how many there are, and how many have results."""

from __future__ import annotations

from typing import Any, NamedTuple

import sqlalchemy as sa

from saju_ops.stale.moments import Moment

# Texts as most programs write them, without an offset: their largest is the latest.
PLAIN_SHAPE, PLAIN_SHAPE_MICRO = "2___-__-__ __:__:__", "2___-__-__ __:__:__.______"


class Files(NamedTuple):
    """What analysis_results holds of one job."""

    total: int = 0
    done: int = 0
    moments: tuple[Moment, ...] = ()


def _sum(one: Files | None, other: Files) -> Files:
    if one is None:
        return other
    pairs = zip(one.moments, other.moments, strict=True)
    return Files(one.total + other.total, one.done + other.done, tuple(_later(a, b) for a, b in pairs))


def _rowid_of(table: Any) -> Any:
    return sa.column("rowid", _selectable=table)


def _plain_time(column: Any) -> Any:
    """Whether a SQLite cell is a text of a date and a time without an offset, so that it is ordered as such."""
    month, day = sa.func.substr(column, 6, 2), sa.func.substr(column, 9, 2)
    text = sa.and_(sa.func.typeof(column) == "text", month.between("01", "12"), day.between("01", "31"))
    last = sa.func.substr(column, 26)
    no_offset = sa.and_(
        last >= "0", last <= "9", sa.func.instr(column, "+") == 0, sa.func.instr(sa.func.substr(column, 12), "-") == 0
    )
    micro = sa.and_(column.like(PLAIN_SHAPE_MICRO), no_offset)
    return sa.and_(text, sa.or_(column.like(PLAIN_SHAPE), micro))


def _later(one: Moment, other: Moment) -> Moment:
    if one.unreadable or other.text is None:
        return one
    return other if one.at is None or other.unreadable or (other.at and other.at > one.at) else one
