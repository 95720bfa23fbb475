"""Archive, purge and restore give back what was there: generated tables and rows, and every type, on each engine."""

from __future__ import annotations

import csv
import itertools
import json
import shutil
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from saju_ops_tests.archive.scene import DAY, NOW, Scene, family

csv.field_size_limit(sys.maxsize)

NASTY = [
    "",
    " ",
    "N",
    "NULL",
    "\\N",
    "\\.",
    "a\n\\.\nb",
    "\\",
    "a\\",
    '"',
    '""',
    '"",""',
    "'",
    "a,b",
    "\n",
    "\r",
    "\r\n",
    "\n\n",
    "trailing \n",
    "\x1f",
    "1\x1fN",
    "\t",
    "🙂",
    "👩‍👩‍👧",
    "한글",
    "가\r\n나",
    "=1+1",
    "%s %(x)s %%",
    ":bind",
    "\ufeffBOM",
    "\x01\x02\x7f\x85\u2028",
    "é",
    "X'00'",
    "0",
]
EXAMPLES = 12
# A failure is reported as it was found: shrinking it would run servers for minutes.
PHASES = [Phase.explicit, Phase.reuse, Phase.generate]


@dataclass(frozen=True, repr=False)
class Kind:
    """A column type, its values, and the SQL around a bound value."""

    ddl: str
    values: st.SearchStrategy[Any]
    mark: str = "{}"

    def __repr__(self) -> str:
        return f"Kind({self.ddl})"


def texts(alphabet: Any = None, most: int = 40, nul: bool = True) -> st.SearchStrategy[str]:
    least = 0 if nul else 1
    every = st.characters(min_codepoint=least, exclude_categories=("Cs",))
    characters = every if alphabet is None else alphabet
    nasty = [t for t in NASTY if len(t) <= most]
    known = st.sampled_from(nasty) if alphabet is None else st.nothing()
    return known | st.text(characters, max_size=most)


def integers(bits: int, signed: bool = True) -> st.SearchStrategy[int]:
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    return st.sampled_from([low, high, 0]) | st.integers(low, high)


def decimals(digits: int, scale: int) -> st.SearchStrategy[str]:
    highest = 10**digits - 1
    pairs = st.tuples(st.sampled_from([-highest, highest, 0, 1, -1]) | st.integers(-highest, highest), st.just(scale))
    return pairs.map(lambda p: f"{p[0]}e-{p[1]}").map(_plain)


def _plain(text: str) -> str:
    from decimal import Context, Decimal

    return format(Context(prec=200).create_decimal(Decimal(text)), "f")


def floats(width: Any) -> st.SearchStrategy[float]:
    known = [0.0, -0.0, 0.1, 1 / 3, 1e-30, 3.4e38] if width == 32 else [0.0, -0.0, 0.1, 5e-324, 1.7976931348623157e308]
    exact = st.floats(width=width, allow_nan=False, allow_infinity=False)
    return exact | (st.sampled_from(known) if width == 64 else st.nothing())


LATIN1 = st.sampled_from([chr(c) for c in range(1, 256) if not 0x7F <= c < 0xA0])
EUCKR = st.sampled_from("가나다라힝漢字abc \n\"'\\")
BMP = st.characters(min_codepoint=1, max_codepoint=0xFFFF, exclude_categories=("Cs",))
TIMES = st.sampled_from(
    ["-838:59:59", "838:59:59", "-00:00:01", "00:00:00", "-00:00:00.000001", "12:34:56.789012", "100:00:00.5"]
)
DATES = st.sampled_from(["0000-00-00", "1000-01-01", "9999-12-31", "2026-02-31", "2026-00-10", "2024-02-29"])
DATETIMES = st.sampled_from(
    ["0000-00-00 00:00:00", "1000-01-01 00:00:00.000001", "9999-12-31 23:59:59.999999", "2026-02-31 10:00:00.5"]
)
TIMESTAMPS = st.sampled_from(["0000-00-00 00:00:00", "1970-01-01 00:00:01", "2038-01-19 03:14:07.999999"])
ENUM, SET = "'Y','N','','한 글','it''s','a,b'", "'a','N','한 글','it''s'"
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(-1e300, 1e300) | texts(nul=False, most=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts(nul=False, most=8), inner, max_size=3),
    max_leaves=6,
)

MYSQL_KINDS = [
    *(
        Kind(f"{name}{unsigned}", integers(bits, not unsigned))
        for name, bits in (("tinyint", 8), ("smallint", 16), ("mediumint", 24), ("int", 32), ("bigint", 64))
        for unsigned in ("", " unsigned")
    ),
    Kind("int(8) zerofill", st.integers(0, 2**32 - 1)),
    Kind("decimal(65,30)", decimals(65, 30)),
    Kind("decimal(10,0)", decimals(10, 0)),
    Kind("float", floats(32)),
    Kind("double", floats(64)),
    Kind("double(12,3)", st.floats(-1e6, 1e6)),
    Kind("bit(1)", st.integers(0, 1)),
    Kind("bit(13)", st.integers(0, 2**13 - 1)),
    Kind("bit(64)", integers(64, False)),
    Kind("char(20) CHARACTER SET utf8mb4", texts(most=20)),
    Kind("varchar(60) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin", texts()),
    Kind("varchar(60) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci", texts()),
    Kind("varchar(60) CHARACTER SET utf8mb3", texts(BMP)),
    Kind("varchar(60) CHARACTER SET latin1", texts(LATIN1)),
    Kind("varchar(60) CHARACTER SET euckr", texts(EUCKR)),
    Kind("tinytext", texts()),
    Kind("mediumtext", texts()),
    Kind("longtext", texts()),
    Kind(f"enum({ENUM})", st.sampled_from(["Y", "N", "", "한 글", "it's", "a,b"])),
    Kind(f"set({SET})", st.sampled_from(["", "N", "a,N", "한 글", "a,한 글,it's"])),
    Kind("json", DOCUMENTS.map(lambda d: json.dumps(d, ensure_ascii=False))),
    Kind("binary(8)", st.binary(max_size=8)),
    Kind("varbinary(60)", st.binary(max_size=60)),
    Kind("blob", st.binary(max_size=60)),
    Kind("longblob", st.binary(max_size=60)),
    Kind("date", DATES | st.dates().map(str)),
    Kind("time", TIMES),
    Kind("time(6)", TIMES),
    Kind("datetime(6)", DATETIMES | st.datetimes(datetime(1000, 1, 1)).map(str)),  # noqa: DTZ001
    Kind("datetime", DATETIMES),
    Kind("timestamp(6) NULL", TIMESTAMPS),
    Kind("year", st.sampled_from([0, 1901, 2026, 2155])),
    Kind("geometry", st.sampled_from(["POINT(1 2)", "LINESTRING(0 0,1 1)"]), "ST_GeomFromText({})"),
    Kind("varchar(200) AS (concat('g', hex(content))) VIRTUAL", st.nothing()),
    Kind("varchar(200) AS (concat('g', log_id)) STORED", st.nothing()),
    Kind("int INVISIBLE", integers(32)),
]
MARIADB_KINDS = [
    *MYSQL_KINDS,
    Kind("uuid", st.uuids().map(str)),
    Kind("inet6", st.ip_addresses(v=6).map(str)),
    Kind("inet4", st.ip_addresses(v=4).map(str)),
]
MYSQL9_KINDS = [
    *MYSQL_KINDS,
    # As bytes: STRING_TO_VECTOR refuses what is nearer to 0 than 2^-126.
    Kind("vector(3)", st.lists(floats(32), min_size=3, max_size=3).map(lambda f: struct.pack("<3f", *f))),
    Kind("point SRID 4326", st.just("POINT(37 127)"), "ST_GeomFromText({}, 4326)"),
]
MYSQL_KEYS = [
    {"log_id": Kind("bigint", integers(64))},
    {"log_id": Kind("bigint unsigned", integers(64, False))},
    {"log_id": Kind("varchar(40) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci", texts())},
    {"log_id": Kind("varchar(40) CHARACTER SET latin1", texts(LATIN1))},
    {"log_id": Kind("varbinary(40)", st.binary(max_size=40))},
    {"log_id": Kind("decimal(20,5)", decimals(20, 5))},
    {
        "log_id": Kind(f"enum({ENUM})", st.sampled_from(["Y", "N", "한 글", "it's", "a,b"])),
        "n": Kind("int", integers(32)),
    },
    {"log_id": Kind("varchar(10)", texts(most=10)), "n": Kind("smallint", st.integers(0, 3))},
    {
        "log_id": Kind("date", st.dates().map(str)),
        "n": Kind("time(6)", TIMES),
        "m": Kind("bit(9)", st.integers(0, 511)),
    },
    {"log_id": Kind("double", floats(64))},
    {
        "log_id": Kind("year", st.sampled_from([0, 1901, 2026, 2155])),
        "n": Kind(f"set({SET})", st.sampled_from(["", "a,N", "N"])),
    },
]

PG_TEXT = texts(nul=False)
POSTGRES_KINDS = [
    *(Kind(name, integers(bits)) for name, bits in (("int2", 16), ("int4", 32), ("int8", 64))),
    Kind(
        "numeric", decimals(60, 40) | st.sampled_from(["NaN", "Infinity", "-Infinity", "1e-300"]), "CAST({} AS numeric)"
    ),
    Kind("numeric(12,4)", decimals(12, 4), "CAST({} AS numeric)"),
    Kind("float4", st.floats(width=32)),
    Kind("float8", st.floats() | st.sampled_from([-0.0, 5e-324])),
    Kind("bool", st.booleans()),
    Kind("text", PG_TEXT),
    Kind("varchar(60)", PG_TEXT),
    Kind("char(40)", PG_TEXT),
    Kind("bytea", st.binary(max_size=60)),
    Kind("json", DOCUMENTS.map(lambda d: json.dumps(d, ensure_ascii=False, indent=1)), "CAST({} AS json)"),
    Kind("jsonb", DOCUMENTS.map(lambda d: json.dumps(d, ensure_ascii=False)), "CAST({} AS jsonb)"),
    Kind("uuid", st.uuids()),
    Kind(
        "date",
        st.sampled_from(["infinity", "-infinity", "0044-03-15 BC", "2026-10-01", "5874897-12-31"]),
        "CAST({} AS date)",
    ),
    Kind("time", st.sampled_from(["00:00:00", "24:00:00", "12:34:56.789012"]), "CAST({} AS time)"),
    Kind("timetz", st.sampled_from(["00:00:00+09", "12:34:56.7-03:30"]), "CAST({} AS timetz)"),
    Kind(
        "timestamp",
        st.sampled_from(["infinity", "0001-01-01 00:00:00 BC", "2026-10-01 00:00:00.000001"]),
        "CAST({} AS timestamp)",
    ),
    Kind(
        "timestamptz",
        st.sampled_from(["-infinity", "294276-12-31 23:59:59+00", "1908-04-01 00:00:00+08:27:52"]),
        "CAST({} AS timestamptz)",
    ),
    Kind(
        "interval",
        st.sampled_from(["-1 year -2 mons +3 days -04:05:06.789", "178000000 years", "0"]),
        "CAST({} AS interval)",
    ),
    Kind("text[]", st.lists(st.none() | PG_TEXT, max_size=3)),
    Kind("int4[]", st.lists(integers(32), max_size=3), "CAST({} AS int4[])"),
    Kind("mood", st.sampled_from(["N", "기쁨", "it's", "a,b"]), "CAST({} AS mood)"),
    Kind("positive", st.integers(1, 9)),
    Kind("int4range", st.sampled_from(["empty", "[1,5)", "(,)"]), "CAST({} AS int4range)"),
    Kind("inet", st.ip_addresses().map(str), "CAST({} AS inet)"),
    Kind("bit(7)", st.sampled_from(["1010101", "0000000"]), "CAST({} AS bit(7))"),
    Kind("money", st.sampled_from(["-1234.56", "0"]), "CAST({} AS money)"),
    Kind("point", st.sampled_from(["(0.1,-2)"]), "CAST({} AS point)"),
    Kind("text GENERATED ALWAYS AS (coalesce(content, 'nothing')) STORED", st.nothing()),
    Kind("int4 GENERATED ALWAYS AS IDENTITY", st.nothing()),
]
POSTGRES_KEYS = [
    {"log_id": Kind("bigserial", integers(64))},
    {"log_id": Kind("text", PG_TEXT)},
    {"log_id": Kind('text COLLATE "und-x-icu"', PG_TEXT)},
    {"log_id": Kind("uuid", st.uuids())},
    {"log_id": Kind("bytea", st.binary(max_size=40))},
    {"log_id": Kind("numeric", decimals(40, 20) | st.just("NaN"), "CAST({} AS numeric)")},
    {
        "log_id": Kind("mood", st.sampled_from(["N", "기쁨", "it's"]), "CAST({} AS mood)"),
        "n": Kind("int4", integers(32)),
    },
    {"log_id": Kind("char(10)", texts(most=10, nul=False)), "n": Kind("int2", st.integers(0, 3))},
    {"log_id": Kind("float8", st.floats())},
]

CELLS = st.one_of(
    st.none(), integers(64), st.floats(allow_nan=False), texts(), st.binary(max_size=30), st.just(2**53 + 1)
)
SQLITE_KINDS = [
    Kind("", CELLS),
    Kind("text", CELLS),
    Kind("integer", CELLS),
    Kind("real", CELLS),
    Kind("numeric", CELLS),
    Kind("blob", CELLS),
    Kind("text", texts()),
    Kind("integer", integers(64)),
    Kind("real", st.floats(allow_nan=False)),
    Kind("blob", st.binary(max_size=60)),
    Kind("text AS (typeof(content)) STORED", st.nothing()),
]
SQLITE_KEYS = [
    {"log_id": Kind("integer", integers(64))},
    {"log_id": Kind("text COLLATE NOCASE NOT NULL", texts())},
    {"log_id": Kind("blob NOT NULL", st.binary(max_size=30))},
    {"log_id": Kind("NOT NULL", st.one_of(integers(64), texts(), st.binary(max_size=9)))},
    {"log_id": Kind("text NOT NULL", texts(most=10)), "n": Kind("integer NOT NULL", st.integers(0, 3))},
    {"log_id": Kind("real NOT NULL", st.floats(allow_nan=False))},
]
MOMENTS = st.integers(0, 24 * 3600 * 10**6 - 1).map(lambda n: DAY.start + timedelta(microseconds=n))
SQLITE_MOMENTS = st.sampled_from(
    ["2026-10-01 00:00:00", "2026-10-01T03:04:05", "2026-10-01 03:04:05.123456", "2026-10-01T03:04:05Z",
     "2026-10-01T23:59:59+09:00", "2026-10-01T00:00:00.5+09:00", "2026-09-30 23:59:59.999"]
)  # fmt: skip


@dataclass(frozen=True)
class Content:
    keys: dict[str, Kind]
    columns: dict[str, Kind]
    rows: list[dict[str, Any]]
    chunk: int
    gzip: bool


@st.composite
def contents(draw: Any, keys: list[dict[str, Kind]], kinds: list[Kind], moments: Any, text: Any) -> Content:
    key = draw(st.sampled_from(keys))
    chosen = draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=7))
    columns = {f"c{i}": kind for i, kind in enumerate(chosen)}
    row = {name: kind.values for name, kind in key.items()}
    row |= {name: st.none() | kind.values for name, kind in columns.items() if not kind.values.is_empty}
    row |= {"content": st.none() | text, "created_at": moments}
    rows = draw(st.lists(st.fixed_dictionaries(row), min_size=1, max_size=12))
    return Content(key, columns, rows, draw(st.sampled_from([1, 3, 5000])), draw(st.booleans()))


NUMBER = itertools.count()
CONTENT = {"mysql": "longtext", "postgresql": "text", "sqlite": "text"}
MOMENT = {"mysql": "timestamp(6) NOT NULL", "postgresql": "timestamptz NOT NULL", "sqlite": "timestamp NOT NULL"}


def make(url: str, folder: Path, content: Content) -> Scene:
    scene = Scene(url, folder, f"conversation_logs_{next(NUMBER)}")
    kind = scene.family
    defined = [f"{name} {k.ddl}" for name, k in content.keys.items()]
    defined += [f"content {CONTENT[kind]}", f"created_at {MOMENT[kind]}"]
    defined += [f"{name} {k.ddl}" for name, k in content.columns.items()]
    scene.run(f"CREATE TABLE {scene.name} ({', '.join(defined)}, PRIMARY KEY ({', '.join(content.keys)}))")
    kinds = {**content.keys, **content.columns}
    names = list(content.rows[0])
    marks = [kinds[n].mark.format(f":{n}") if n in kinds else f":{n}" for n in names]
    # Two generated keys may be the same to a collation: the server keeps one of them.
    verb = {"mysql": "INSERT IGNORE", "postgresql": "INSERT", "sqlite": "INSERT OR IGNORE"}[kind]
    end = " ON CONFLICT DO NOTHING" if kind == "postgresql" else ""
    statement = f"{verb} INTO {scene.name} ({', '.join(names)}) VALUES ({', '.join(marks)}){end}"
    for row in content.rows:
        scene.run(statement, **{n: _bound(scene, v) for n, v in row.items()})
    return scene


def _bound(scene: Scene, value: Any) -> Any:
    return scene.time(value) if isinstance(value, datetime) and value.tzinfo is UTC else value


def comes_back(url: str, folder: Path, content: Content) -> None:
    scene = make(url, folder, content)
    original = scene.state()
    try:
        archived = scene.archive(compression="gzip" if content.gzip else "none")
        assert archived.rows == len(original)
        the_file_opens_everywhere(scene, len(original))
        assert scene.purge(dry_run=True, chunk_size=content.chunk).deletable == len(original)
        purged = scene.purge(chunk_size=content.chunk)
        assert (purged.deleted, purged.row_by_row_chunks, purged.problems) == (len(original), 0, [])
        assert scene.count() == 0
        restored = scene.restore()
        assert restored.written == len(original)
        same(scene.state(), original)
        again = scene.restore()
        assert (again.written, again.already_there) == (0, len(original))
    finally:
        scene.run(f"DROP TABLE {scene.name}")
        shutil.rmtree(folder, ignore_errors=True)


def same(found: list[tuple[Any, ...]], original: list[tuple[Any, ...]]) -> None:
    """Like ==, but a failure shows the cells that differ and not whole tables."""
    cells = [
        (row, place, have, want)
        for row, (ours, theirs) in enumerate(zip(found, original, strict=True))
        for place, (have, want) in enumerate(zip(ours, theirs, strict=True))
        if have != want
    ]
    assert cells[:5] == []


def the_file_opens_everywhere(scene: Scene, rows: int) -> None:
    path = scene.data_file()
    manifest = scene.files().parts[0]
    frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    assert len(frame) == rows
    assert list(frame.columns) == [c["name"] for c in manifest.columns]
    plain = _plain_bytes(path)
    assert plain.startswith(b"\xef\xbb\xbf")
    read = list(csv.reader(plain.decode("utf-8-sig").splitlines(keepends=True) and [*_lines(plain)], strict=True))
    assert len(read) == rows + 1
    if scene.family != "sqlite":
        texts = scene.run(f"SELECT content FROM {scene.name}")  # noqa: S608
        place = read[0].index("content")
        assert sorted(row[place] for row in read[1:]) == sorted(t[0] or "" for t in texts)


def _plain_bytes(path: Path) -> bytes:
    import gzip

    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def _lines(plain: bytes) -> Iterator[str]:
    import io

    # As `open(path, newline="")` gives them: a CSV reader must see carriage returns.
    yield from io.TextIOWrapper(io.BytesIO(plain), "utf-8-sig", newline="")


def property_settings(examples: int = EXAMPLES) -> Any:
    return settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
        phases=PHASES,
    )


@pytest.mark.long
@property_settings()
@given(content=contents(MYSQL_KEYS, MYSQL9_KINDS, MOMENTS, texts()))
def test_any_mysql_table_comes_back(mysql_url: str, tmp_path: Path, content: Content) -> None:
    comes_back(mysql_url, tmp_path / "backups", content)


@pytest.mark.long
@property_settings()
@given(content=contents(MYSQL_KEYS, MARIADB_KINDS, MOMENTS, texts()))
def test_any_mariadb_table_comes_back(mariadb_url: str, tmp_path: Path, content: Content) -> None:
    comes_back(mariadb_url, tmp_path / "backups", content)


@pytest.fixture
def postgres_with_types(postgres_url: str) -> str:
    Scene(postgres_url, Path("unused")).run(
        "CREATE TYPE mood AS ENUM ('N', '기쁨', 'it''s', 'a,b')", "CREATE DOMAIN positive AS int4 CHECK (VALUE > 0)"
    )
    return postgres_url


@pytest.mark.long
@property_settings()
@given(content=contents(POSTGRES_KEYS, POSTGRES_KINDS, MOMENTS, PG_TEXT))
def test_any_postgresql_table_comes_back(postgres_with_types: str, tmp_path: Path, content: Content) -> None:
    comes_back(postgres_with_types, tmp_path / "backups", content)


@pytest.mark.long
@property_settings(2 * EXAMPLES)
@given(content=contents(SQLITE_KEYS, SQLITE_KINDS, SQLITE_MOMENTS, texts()))
def test_any_sqlite_table_comes_back(sqlite_url: str, tmp_path: Path, content: Content) -> None:
    comes_back(sqlite_url, tmp_path / "backups", content)


# --- every type at once, with each value of a list --------------------------------------------------------


def every_type(keys: dict[str, Kind], kinds: list[Kind], values: list[list[Any]]) -> Content:
    columns = {f"c{i}": kind for i, kind in enumerate(kinds)}
    longest = max(map(len, values))
    rows = []
    for i in range(longest):
        row: dict[str, Any] = {"log_id": i + 1, "content": NASTY[i % len(NASTY)], "created_at": DAY.start}
        row |= {
            f"c{n}": ([*v, None][i] if i < len(v) + 1 else None)
            for n, v in enumerate(values)
            if not kinds[n].values.is_empty
        }
        rows.append(row)
    return Content(keys, columns, rows, 7, False)


def _edge_values(kind: Kind) -> list[Any]:
    """Values of a kind, the same in every run."""
    found: list[Any] = []
    if kind.values.is_empty:
        return found

    @settings(max_examples=25, derandomize=True, database=None, phases=[Phase.generate], deadline=None)
    @given(kind.values)
    def collect(value: Any) -> None:
        found.append(value)

    collect()
    return found[:25]


ALL = {
    "mysql": (MYSQL_KEYS[0], MYSQL9_KINDS),
    "mariadb": (MYSQL_KEYS[0], MARIADB_KINDS),
    "postgres": (POSTGRES_KEYS[0], POSTGRES_KINDS),
    "sqlite": (SQLITE_KEYS[0], SQLITE_KINDS),
}


@pytest.mark.long
@pytest.mark.parametrize("engine", list(ALL))
def test_every_type_of_the_engine_comes_back(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    fixture = "postgres_with_types" if engine == "postgres" else f"{engine}_url"
    keys, kinds = ALL[engine]
    content = every_type(keys, kinds, [_edge_values(kind) for kind in kinds])
    if engine == "sqlite":
        content = Content(
            content.keys, content.columns, [{**r, "created_at": "2026-10-01 00:00:00"} for r in content.rows], 7, False
        )
    if engine == "postgres":
        content = Content(
            content.keys, content.columns,
            [{**r, "content": r["content"].replace("\0", "")} for r in content.rows], 7, False,
        )  # fmt: skip
    comes_back(request.getfixturevalue(fixture), tmp_path / "backups", content)


@pytest.mark.long
def test_a_row_of_ten_megabytes_comes_back(database_url: str, tmp_path: Path) -> None:
    scene = Scene(database_url, tmp_path / "backups").create_table()
    scene.add(3)
    scene.add(1, first=10, content='한글 "x",\r\n🙂' * 500_000)
    scene.add(3, first=11)
    original = scene.state()
    scene.archive()
    assert scene.purge().deleted == 7
    scene.restore()
    assert scene.state() == original


def test_rows_of_other_days_are_neither_archived_nor_touched(database_url: str, tmp_path: Path) -> None:
    scene = Scene(database_url, tmp_path / "backups").create_table()
    scene.add(2)
    around = [DAY.start - timedelta(microseconds=1), DAY.start, DAY.end - timedelta(microseconds=1), DAY.end]
    scene.insert([{"log_id": 100 + i, "created_at": scene.time(t)} for i, t in enumerate(around)])
    assert scene.archive().rows == 4
    assert scene.purge(now=NOW).deleted == 4
    assert scene.ids() == [100, 103]


@pytest.mark.long
def test_a_restore_by_inserts_gives_the_same_rows_as_one_by_load_data(mysql_server: Any, tmp_path: Path) -> None:
    content = every_type(MYSQL_KEYS[0], MYSQL9_KINDS, [_edge_values(kind) for kind in MYSQL9_KINDS])
    with mysql_server.database() as url:
        mysql_server.execute("SET GLOBAL local_infile = OFF")
        try:
            assert family(url) == "mysql"
            comes_back(url, tmp_path / "backups", content)
        finally:
            mysql_server.execute("SET GLOBAL local_infile = ON")
