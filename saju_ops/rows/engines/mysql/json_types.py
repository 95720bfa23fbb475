"""JSON of MySQL that holds more than JSON text can say: decimals, dates, times and binary strings.

`JSON_SET(tool_calls, '$.cost', 0.10)` stores a DECIMAL; its text, read again, is a DOUBLE. So the text of such a
document is followed, after a tab, by the types that the text doesn't show: `{"cost": 0.10}⇥.1 DECIMAL` says that among
all values in objects the first is a DECIMAL. A restore writes the text and puts these values in with their types. A
document whose text shows everything is written as it is; JSON text has no tab of its own.

Values that no expression can make again (a BIT, the contents of BLOB and BINARY columns) can't be restored; `LOST`
counts them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from saju_ops.errors import ProofFailed
from saju_ops.rows.comeback import TYPES_BEHIND

# What JSON_TYPE says of values that JSON text has a form for.
PLAIN = "'OBJECT', 'ARRAY', 'NULL', 'BOOLEAN', 'INTEGER', 'UNSIGNED INTEGER', 'DOUBLE', 'STRING'"
# And types that an expression can make again; for binary strings those that functions give, and VARBINARY.
MADE = "'DECIMAL', 'DATETIME', 'TIMESTAMP', 'DATE', 'TIME'"
BINARY_TEXT = "base64:type15:"
HIDDEN = f"JSON_TYPE({{v}}) NOT IN ({PLAIN})"
LOST = (
    f"{HIDDEN} AND JSON_TYPE({{v}}) NOT IN ({MADE})"
    f" AND NOT (JSON_TYPE({{v}}) = 'BLOB' AND JSON_UNQUOTE({{v}}) LIKE '{BINARY_TEXT}%')"
)
# Where values are, in the order in which MySQL finds them, and how each place is called before its number.
PLACES = {"$**.*": ".", "$**[*]": "["}
WHOLE = "$"


def holds(cell: str, condition: str) -> str:
    """Whether a document has a value like that, at its top or anywhere inside. `cell` is quoted."""
    inside = (
        f"EXISTS (SELECT 1 FROM JSON_TABLE({cell}, '{path}' COLUMNS (saju_v JSON PATH '$')) AS saju_j"  # noqa: S608
        f" WHERE {condition.format(v='saju_j.saju_v')})"
        for path in PLACES
    )
    return f"({' OR '.join([condition.format(v=cell), *inside])})"


def typed_text(cell: str) -> str:
    """A document's text with the types behind it. `cell` is quoted."""
    inside = (
        f"(SELECT GROUP_CONCAT('{place}', saju_n, ' ', JSON_TYPE(saju_v) ORDER BY saju_n SEPARATOR ',')"  # noqa: S608
        f" FROM JSON_TABLE({cell}, '{path}' COLUMNS (saju_n FOR ORDINALITY, saju_v JSON PATH '$')) AS saju_j"
        f" WHERE {HIDDEN.format(v='saju_v')})"
        for path, place in PLACES.items()
    )
    whole = f"IF({HIDDEN.format(v=cell)}, CONCAT('{WHOLE} ', JSON_TYPE({cell})), NULL)"
    types = f"CONCAT_WS(',', {', '.join([whole, *inside])})"
    return f"TRIM(TRAILING '{TYPES_BEHIND}' FROM CONCAT(CAST({cell} AS CHAR), '{TYPES_BEHIND}', {types}))"


@dataclass(frozen=True)
class Value:
    path: str
    type: str
    # As the text has it: digits, or a string without its quotes.
    text: str

    def expression(self) -> sa.ColumnElement[Any]:
        text = sa.literal(self.text, sa.Text())
        if self.type == "DECIMAL":
            digits = len(self.text.partition(".")[2])
            return sa.cast(text, sa.Numeric(65, digits))
        if self.type == "BLOB":
            return sa.cast(sa.func.from_base64(self.text.removeprefix(BINARY_TEXT)), mysql.BINARY())
        if self.type == "TIMESTAMP":
            # There is no cast to it; a column of JSON_TABLE has the type.
            table = sa.text("JSON_TABLE(:saju_at, '$' COLUMNS (saju_v TIMESTAMP(6) PATH '$')) AS saju_j")
            column: Any = sa.literal_column("saju_j.saju_v")
            return sa.select(column).select_from(
                table.bindparams(sa.bindparam("saju_at", json.dumps(self.text), unique=True))
            ).scalar_subquery()  # fmt: skip
        kinds: dict[str, Any] = {"DATETIME": mysql.DATETIME(fsp=6), "DATE": sa.Date(), "TIME": mysql.TIME(fsp=6)}
        return sa.cast(text, kinds[self.type])


def document(cell: str) -> Any:
    """An expression for a cell with types behind its text, in which the cell's own words are values alone. Raises
    ProofFailed for what `typed_text` didn't make."""
    text, _, types = cell.partition(TYPES_BEHIND)
    steps: list[Any] = [sa.cast(sa.literal(text, sa.Text()), sa.JSON())]
    try:
        for value in hidden_values(text, types):
            steps += [sa.literal(value.path), value.expression()]
    except (KeyError, ValueError, IndexError, RecursionError):
        raise ProofFailed(
            "A JSON document of the archive has types behind its text that saju_ops didn't write. The file with it"
            " was rolled back; compare it with its copy in another store."
        ) from None
    return sa.func.json_replace(*steps)


def hidden_values(text: str, types: str) -> Iterator[Value]:
    found: Any = json.loads(text, parse_float=_Digits, parse_int=_Digits)
    places: dict[str, list[tuple[str, Any]]] = {WHOLE: [("$", found)]}
    places |= {place: list(_places(found, "$", kind)) for place, kind in ((".", dict), ("[", list))}
    for each in types.split(","):
        place, kind = each.split(" ")
        path, value = places[place[0]][int(place[1:] or 1) - 1]
        yield Value(path, kind, str(value))


def types_shown(text: str) -> str:
    """The types that numbers of a text have, as `typed_text` writes them: DECIMAL where no DOUBLE prints so. For
    archives of earlier versions, which say no types."""
    found: Any = json.loads(text, parse_float=_Digits, parse_int=_Digits)
    values = [(f"{WHOLE} ", found)]
    for place, kind in ((".", dict), ("[", list)):
        values += [(f"{place}{n} ", value) for n, (_, value) in enumerate(_places(found, "$", kind), 1)]
    return ",".join(f"{where}DECIMAL" for where, value in values if isinstance(value, _Digits) and value.is_decimal)


class _Digits(str):
    """A number as it is written."""

    __slots__ = ()

    @property
    def is_decimal(self) -> bool:
        if "e" in self.lower():
            return False
        if "." not in self:
            return not -(1 << 63) <= int(self) < 1 << 64
        fraction = self.partition(".")[2]
        return (fraction.endswith("0") and fraction != "0") or Decimal(self) != Decimal(repr(float(self)))


def _places(value: Any, path: str, kind: type) -> Iterator[tuple[str, Any]]:
    """The values in objects (or in arrays) with their paths, as MySQL finds them: all of one, then those in each."""
    if isinstance(value, dict):
        children = [(f"{path}.{json.dumps(name, ensure_ascii=False)}", each) for name, each in value.items()]
    elif isinstance(value, list):
        children = [(f"{path}[{number}]", each) for number, each in enumerate(value)]
    else:
        return
    if isinstance(value, kind):
        yield from children
    for inside, each in children:
        yield from _places(each, inside, kind)
