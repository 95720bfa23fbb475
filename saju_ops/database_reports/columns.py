"""The columns of each report, with the kind of their values and what they mean: one list for frame, CSV file and UI."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["text", "int", "float", "bool"]
Report = Literal["slow_queries", "index_usage", "table_sizes"]
_DTYPES = {"text": "object", "int": "Int64", "float": "Float64", "bool": "boolean"}


@dataclass(frozen=True)
class Column:
    name: str
    kind: Kind
    meaning: str


_DATABASE = Column("database", "text", "The database, by the name that its dumps have.")
_SINCE = Column("since", "text", "When the server's counters began, UTC; empty where the server doesn't say.")
COLUMNS: dict[Report, tuple[Column, ...]] = {
    "slow_queries": (
        _DATABASE,
        Column("digest", "text", "The server's own id of the normalised statement."),
        Column("query", "text", "The normalised statement: names and keywords, no value."),
        Column("calls", "int", "How often it ran since the counters began."),
        Column("total_ms", "float", "Milliseconds of all its runs together; the report is sorted by it."),
        Column("mean_ms", "float", "Milliseconds of a run, on average."),
        Column("max_ms", "float", "Milliseconds of its longest run."),
        Column("rows_examined", "int", "Rows that the server looked at; empty on PostgreSQL."),
        Column("rows_sent", "int", "Rows that it gave or changed."),
        Column("without_index", "int", "Runs that used no index; empty on PostgreSQL."),
        _SINCE,
    ),
    "index_usage": (
        _DATABASE,
        Column("table", "text", "The table; with its schema where that is not the database's own."),
        Column("index", "text", "The index."),
        Column("columns", "text", "Its columns in their order."),
        Column("unique", "bool", "Whether it holds every value once."),
        Column("uses", "int", "How often it was read since the counters began; empty where nobody counted."),
        Column("bytes", "int", "Bytes on disk; empty on MySQL and MariaDB."),
        Column("needed_for", "text", "Why it must stay though nobody read it: a key, a foreign key, our own queries."),
        Column("may_go", "bool", "Nobody read it since the counters began, and nothing needs it."),
        _SINCE,
    ),
    "table_sizes": (
        _DATABASE,
        Column("table", "text", "The table, with all of its partitions."),
        Column("rows", "int", "Rows, as the server estimates them; empty where it doesn't."),
        Column("data_bytes", "int", "Bytes of its rows on disk."),
        Column("index_bytes", "int", "Bytes of its indexes on disk."),
        Column("free_bytes", "int", "Bytes that are free inside its file; empty on PostgreSQL."),
        Column("bytes", "int", "Bytes of rows and indexes; the report is sorted by it."),
        Column("growth_bytes_per_day", "float", "Bytes a day since the report of a week ago; empty without one."),
        Column("room_bytes", "int", "Bytes that the database may still take; empty where no limit is known."),
        Column("days_to_limit", "float", "Days until it has filled that room alone; empty where it doesn't grow."),
    ),
}


def names(report: Report) -> list[str]:
    return [column.name for column in COLUMNS[report]]


def frame_of(report: Report, rows: list[dict[str, Any]]) -> Any:
    """A pandas frame with exactly the report's columns. A value that a row lacks is empty."""
    import pandas as pd

    frame = pd.DataFrame(rows, columns=names(report))
    for column in COLUMNS[report]:
        if column.kind == "text":
            frame[column.name] = frame[column.name].astype("object").where(frame[column.name].notna(), "")
        else:
            values = pd.array(frame[column.name].tolist(), dtype=_DTYPES[column.kind])
            frame[column.name] = pd.Series(values, index=frame.index)
    return frame


def csv_of(frame: Any) -> bytes:
    """UTF-8 with a byte order mark, so that Excel opens Korean."""
    text: str = frame.to_csv(index=False, lineterminator="\n")
    return text.encode("utf-8-sig")


def frame_from_csv(report: Report, data: bytes) -> Any:
    """A stored report. Raises ValueError for what has not the columns and kinds of values of this version."""
    import io

    import pandas as pd

    try:
        found = pd.read_csv(io.BytesIO(data), dtype=str, keep_default_na=False, encoding="utf-8-sig")
        if list(found.columns) != names(report):
            raise ValueError("it has other columns")
        rows = [
            {column.name: _value(column.kind, text) for column, text in zip(COLUMNS[report], row, strict=True)}
            for row in found.itertuples(index=False, name=None)
        ]
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, OverflowError) as error:
        raise ValueError(f"it is no table ({type(error).__name__})") from None
    return frame_of(report, rows)


def _value(kind: Kind, text: str) -> Any:
    if kind == "text":
        return text
    if text == "":
        return None
    if kind == "bool":
        return {"True": True, "False": False}[text] if text in ("True", "False") else None
    number = float(text)
    if number != number or abs(number) > 1e18:
        raise ValueError("a number is out of range")
    return int(number) if kind == "int" else number
